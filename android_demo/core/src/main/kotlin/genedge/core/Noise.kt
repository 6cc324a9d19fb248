package genedge.core

/*
 * Random numbers from a seed, the same bits as in Python: Philox4x32-10 (Salmon et al., "Parallel
 * random numbers: as easy as 1, 2, 3", SC 2011) with key = seed and counter = (block, stream, 0, 0).
 */

const val NOISE_STREAM = 0
const val CHOICE_STREAM = 1
const val STYLE_CHOICE = 0
const val MEANING_CHOICE = 1

private const val LOW = 0xFFFFFFFFL

/** The seed that [text] writes in decimal digits 0–9. Throws [BadRequest] unless 0 … 2⁶³−1. */
fun parseSeed(text: String): Long {
    val digits = text.trim(' ')
    // toLong also reads the digits of other scripts; a seed is written in one way only.
    val value = if (digits.isNotEmpty() && digits.all { it in '0'..'9' }) digits.toLongOrNull() else null
    return value ?: throw BadRequest(
        "seed $text can not be used; give a whole number from 0 to ${Long.MAX_VALUE}"
    )
}

/** The 32-bit words of counters (0, stream, 0, 0) … (blocks − 1, stream, 0, 0), four each. */
fun philox(seed: Long, stream: Int, blocks: Int): IntArray {
    if (seed < 0) throw BadRequest("seed $seed can not be used; it must not be negative")
    val words = IntArray(4 * blocks)
    for (block in 0 until blocks) {
        var c0 = block.toLong()
        var c1 = stream.toLong() and LOW
        var c2 = 0L
        var c3 = 0L
        var k0 = seed and LOW
        var k1 = seed ushr 32
        repeat(10) {
            val p0 = 0xD2511F53L * c0
            val p1 = 0xCD9E8D57L * c2
            c0 = (p1 ushr 32) xor c1 xor k0
            c1 = p1 and LOW
            c2 = (p0 ushr 32) xor c3 xor k1
            c3 = p0 and LOW
            k0 = (k0 + 0x9E3779B9L) and LOW
            k1 = (k1 + 0xBB67AE85L) and LOW
        }
        words[4 * block] = c0.toInt()
        words[4 * block + 1] = c1.toInt()
        words[4 * block + 2] = c2.toInt()
        words[4 * block + 3] = c3.toInt()
    }
    return words
}

/**
 * [count] near-normal numbers of mean 0 and variance 1, between −6 and 6: number i is (the sum of
 * the twelve 16-bit halves of words 6 i … 6 i + 5, less 393210) / 65536, exact in float32.
 */
fun noise(seed: Long, count: Int): FloatArray {
    val words = philox(seed, NOISE_STREAM, (6 * count + 3) / 4)
    return FloatArray(count) { i ->
        var sum = 0
        for (k in 6 * i until 6 * i + 6) sum += (words[k] and 0xFFFF) + (words[k] ushr 16)
        (sum - 393210) / 65536f
    }
}

/** A whole number from 0 to count − 1: (word [which] of stream 1 × count) >> 32. */
fun choice(seed: Long, count: Int, which: Int): Int {
    val word = philox(seed, CHOICE_STREAM, 1)[which].toLong() and LOW
    return (word * count ushr 32).toInt()
}
