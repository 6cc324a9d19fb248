package genedge.core

import com.google.gson.JsonObject
import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertNull
import org.junit.Assert.assertTrue
import org.junit.Test
import java.io.ByteArrayOutputStream
import java.util.zip.InflaterInputStream

class PictureTest {
    private fun signature(layout: String, channels: Int, size: Int = 2, low: Double = 0.0) = Signature(
        emptyMap(), "picture",
        TensorSpec("float32", intArrayOf(1, channels, size, size), low, 1.0),
        layout, emptyList(), null, null,
    )

    private fun pixel(layout: String, vararg values: Float): List<Int> {
        val planes = FloatArray(values.size * 4) { values[it / 4] }
        val picture = toPicture(planes, signature(layout, values.size))
        return List(4) { picture.rgba[it].toInt() and 255 }
    }

    /** The picture of a vector: bytes of Philox words, stream 2, every seventh pixel flat. */
    private fun picture(seed: Long, side: Int): Picture {
        val words = philox(seed, 2, side * side / 4)
        return Picture(side, side, ByteArray(4 * side * side) {
            val pixel = it / 4
            when {
                pixel % 7 == 0 -> -1
                pixel % 7 == 3 && it % 4 == 3 -> 0
                else -> (words[pixel] ushr 8 * (it % 4)).toByte()
            }
        })
    }

    private fun near(seed: Long, reference: Picture): Picture {
        val other = picture(seed, reference.width)
        return Picture(reference.width, reference.height, ByteArray(reference.rgba.size) {
            ((reference.rgba[it].toInt() and 255) + (other.rgba[it].toInt() and 255) % 9 - 4)
                .coerceIn(0, 255).toByte()
        })
    }

    @Test
    fun `metrics equal the shared vectors to a millionth`() {
        for (row in vectorsOf("pictures", "metrics")) {
            val reference = picture(row.get("seed").asLong, row.get("side").asInt)
            val mine = near(row.get("seed").asLong + 1, reference)
            assertEquals(row.get("psnr").asDouble, picturePsnr(mine, reference), 1e-6)
            assertEquals(row.get("ssim").asDouble, pictureSsim(mine, reference), 1e-6)
            assertEquals(row.get("max_error").asInt, maxError(mine, reference))
            val signed = row.getAsJsonArray("signed").map { it.asDouble }.toDoubleArray()
            assertArrayEquals(signed, signedError(mine, reference), 1e-6)
            val flat = row.getAsJsonArray("flat").map { it.asLong }
            assertEquals(flat[0] to flat[1], flatKept(mine, reference))
        }
    }

    @Test
    fun `pixels equal the shared vectors`() {
        for (row in vectorsOf("pictures", "pixels")) {
            val layout = row.get("layout").asString
            val channels = mapOf("gray" to 1, "rgb" to 3).getOrDefault(layout, 4)
            val raw = noise(row.get("seed").asLong, channels * 64)
            val values = FloatArray(raw.size) { raw[it] / 4 + 0.5f }
            val drawn = toPicture(values, signature(layout, channels, 8, row.get("low").asDouble))
            assertEquals(row.get("rgba").asString, hex(drawn.rgba))
        }
    }

    @Test
    fun `equal pictures count as 100 dB and are alike`() {
        val one = picture(3, 16)
        assertEquals(100.0, picturePsnr(one, one), 0.0)
        assertEquals(1.0, pictureSsim(one, one), 1e-12)
        assertEquals(0, maxError(one, one))
    }

    @Test
    fun `levels are rounded to the nearest and limited`() {
        assertEquals(listOf(0, 128, 255, 255), pixel("rgb", -3f, 0.5f, 9f))
        assertEquals(listOf(64, 64, 64, 255), pixel("gray", 0.25f))
        assertEquals(listOf(255, 0, 0, 255), pixel("rgb", Float.POSITIVE_INFINITY, Float.NaN, Float.NEGATIVE_INFINITY))
    }

    @Test
    fun `premultiplied colour becomes straight`() {
        assertEquals(listOf(255, 128, 0, 128), pixel("rgba-premultiplied", 0.9f, 0.25f, 0f, 128 / 255f))
        assertEquals(listOf(0, 0, 0, 0), pixel("rgba-premultiplied", 1f, 1f, 1f, 0f))
    }

    @Test
    fun `a clear pixel over a colour is that colour`() {
        val clear = Picture(1, 1, ByteArray(4))
        assertArrayEquals(intArrayOf(18, 52, 86), over(clear, parseBackground("#123456")!!))
        assertNull(parseBackground("transparent"))
        for (text in listOf("black", "#12345", "#12345g", "123456", "")) {
            refused<BadRequest>("background") { parseBackground(text) }
        }
    }

    @Test
    fun `no drawing is called one`() {
        fun flat(vararg rgba: Int) = suspicion(Picture(16, 16, ByteArray(1024) { rgba[it % 4].toByte() }))
        assertEquals("the picture is empty: every pixel is transparent", flat(0, 0, 0, 0))
        assertEquals("the picture is black: every pixel is 0, 0, 0", flat(0, 0, 0, 255))
        assertEquals("the picture is grey: every pixel is 90, 91, 90", flat(90, 91, 90, 255))
        assertEquals("every pixel has the same colour (200, 9, 9)", flat(200, 9, 9, 255))
        val noise = Picture(16, 16, picture(1, 16).rgba.copyOf().also { for (i in 3 until it.size step 4) it[i] = -1 })
        assertTrue(suspicion(noise)!!.contains("noise"))
        val half = Picture(16, 16, ByteArray(1024) { if (it % 4 == 3 || it / 4 % 16 < 8) -1 else 0 })
        assertNull(suspicion(half))
        Golden.open(readArtifact(bundled).run { file(manifest.golden!!) }).use { golden ->
            assertTrue(golden.pictures().all { suspicion(it.first) == null })
        }
    }

    private fun chunks(png: ByteArray): Map<String, List<ByteArray>> {
        val found = LinkedHashMap<String, MutableList<ByteArray>>()
        val data = java.io.DataInputStream(png.inputStream())
        data.skipBytes(8)
        while (data.available() > 0) {
            val body = ByteArray(data.readInt())
            val name = ByteArray(4).also { data.readFully(it) }
            data.readFully(body)
            val crc = java.util.zip.CRC32().apply { update(name); update(body) }
            assertEquals(crc.value.toInt(), data.readInt())
            found.getOrPut(String(name)) { ArrayList() } += body
        }
        return found
    }

    @Test
    fun `a saved picture holds its pixels, its prompt and the mark`() {
        val picture = picture(5, 16)
        val out = ByteArrayOutputStream()
        writePng(out, picture, null, mapOf("prompt" to "红苹果 🍎", "seed" to "7"))
        val chunks = chunks(out.toByteArray())
        val texts = chunks.getValue("iTXt").map { String(it, Charsets.UTF_8) }
        assertEquals("prompt\u0000\u0000\u0000\u0000\u0000红苹果 🍎", texts[0])
        assertTrue(texts[2].contains("trainedAlgorithmicMedia"))
        val raw = InflaterInputStream(chunks.getValue("IDAT")[0].inputStream()).readBytes()
        val rows = ByteArray(picture.rgba.size) { raw[it + it / 64 + 1] }
        assertArrayEquals(picture.rgba, rows)
    }

    @Test
    fun `what a picture says of itself is complete`() {
        val manifest = read(tinyManifest { row: JsonObject -> row.addProperty("name", "model") })
        val about = about(Feed(emptyMap(), "a fox", 9, "flat", emptyList()), manifest)
        assertEquals(listOf("Software", "prompt", "seed", "style", "model", "artifact"), about.keys.toList())
        assertEquals(listOf("genedge", "a fox", "9", "flat", "model", manifest.hash), about.values.toList())
    }
}
