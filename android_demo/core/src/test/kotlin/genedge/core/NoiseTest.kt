package genedge.core

import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Test

class NoiseTest {
    @Test
    fun `noise equals the shared vectors bit for bit`() {
        for (row in vectorsOf("noise", "noise")) {
            val bits = row.getAsJsonArray("bits").map { it.asLong.toInt() }
            val mine = noise(parseSeed(row.get("seed").asString), bits.size)
            assertEquals(bits, mine.map { it.toRawBits() })
        }
    }

    @Test
    fun `choices equal the shared vectors`() {
        for (row in vectorsOf("noise", "choices")) {
            val seed = parseSeed(row.get("seed").asString)
            assertEquals(row.get("style_of_seven").asInt, choice(seed, 7, STYLE_CHOICE))
            assertEquals(row.get("meaning_of_sixteen").asInt, choice(seed, 16, MEANING_CHOICE))
        }
    }

    @Test
    fun `philox equals the known answer of its authors`() {
        // Random123's kat_vectors: philox4x32 10, counter and key of zeros.
        val words = philox(0, 0, 1).map { it.toUInt().toString(16) }
        assertEquals(listOf("6627e8d5", "e169c58d", "bc57ac4c", "9b00dbd8"), words)
    }

    @Test
    fun `a shorter request gives the beginning of a longer one`() {
        assertArrayEquals(noise(7, 100).copyOf(33), noise(7, 33), 0f)
    }

    @Test
    fun `the middle is zero and the spread is one`() {
        val some = noise(1, 20000)
        assertEquals(0.0, some.average(), 0.03)
        assertEquals(1.0, some.sumOf { it.toDouble() * it } / some.size, 0.05)
    }

    @Test
    fun `seeds out of range are refused`() {
        for (text in listOf("", " ", "-1", "1.5", "9223372036854775808", "0x10", "1e3", "+1", "٣")) {
            refused<BadRequest>("seed") { parseSeed(text) }
        }
        refused<BadRequest>("seed") { philox(-1, 0, 1) }
        assertEquals(Long.MAX_VALUE, parseSeed(" 9223372036854775807 "))
    }
}
