package genedge.core

/** Pixels as they are saved: four bytes each, red, green, blue and straight alpha, row by row. */
class Picture(val width: Int, val height: Int, val rgba: ByteArray) {
    init {
        require(rgba.size == 4 * width * height) { "a picture of $width × $height has other bytes" }
    }

    /** Android's form: one Int each, alpha first. */
    fun argb(): IntArray = IntArray(width * height) {
        val at = 4 * it
        level(at + 3) shl 24 or (level(at) shl 16) or (level(at + 1) shl 8) or level(at + 2)
    }

    internal fun level(at: Int): Int = rgba[at].toInt() and 255
}

/** A colour to draw over; levels 0 … 255. */
class Ground(val red: Int, val green: Int, val blue: Int) {
    internal fun level(channel: Int) = if (channel == 0) red else if (channel == 1) green else blue

    companion object {
        val WHITE = Ground(255, 255, 255)
        val BLACK = Ground(0, 0, 0)
    }
}

/** `white`, `transparent` (null) or `#rrggbb`. Throws [BadRequest] for anything else. */
fun parseBackground(text: String): Ground? {
    if (text == "transparent") return null
    if (text == "white") return Ground.WHITE
    val digits = text.drop(1)
    val isHex = digits.length == 6 && digits.all { it in '0'..'9' || it in 'a'..'f' || it in 'A'..'F' }
    if (!text.startsWith("#") || !isHex) {
        throw BadRequest("background $text is unknown; use white, transparent or #rrggbb")
    }
    val colour = digits.toInt(16)
    return Ground(colour shr 16, colour shr 8 and 255, colour and 255)
}

/**
 * float32 (1, C, H, W) → pixels. Each value becomes the nearest of 256 levels between the output's
 * low and high. Premultiplied colour is first limited to alpha, then divided: (255 p + ⌊a/2⌋) ÷ a
 * in whole numbers; where alpha is 0 all four are 0, in straight `rgba` too. NaN becomes level 0.
 */
fun toPicture(values: FloatArray, signature: Signature): Picture {
    val spec = signature.output
    val scale = 255 / (spec.high - spec.low)
    val plane = signature.width * signature.height
    fun level(channel: Int, pixel: Int): Int {
        val scaled = (values[channel * plane + pixel].toDouble() - spec.low) * scale
        return if (scaled.isNaN()) 0 else Math.rint(scaled).coerceIn(0.0, 255.0).toInt()
    }
    val rgba = ByteArray(4 * plane)
    for (pixel in 0 until plane) {
        val alpha = if (signature.layout.startsWith("rgba")) level(3, pixel) else 255
        for (channel in 0 until 3) {
            val colour = level(if (signature.layout == "gray") 0 else channel, pixel)
            rgba[4 * pixel + channel] = when {
                alpha == 0 -> 0
                alpha == 255 || signature.layout == "rgba" -> colour
                else -> (255 * minOf(colour, alpha) + alpha / 2) / alpha
            }.toByte()
        }
        rgba[4 * pixel + 3] = alpha.toByte()
    }
    return Picture(signature.width, signature.height, rgba)
}

/** Straight alpha over one colour: three levels each, rounded in whole numbers. */
fun over(picture: Picture, ground: Ground): IntArray {
    val out = IntArray(3 * picture.width * picture.height)
    for (pixel in 0 until picture.width * picture.height) {
        val alpha = picture.level(4 * pixel + 3)
        for (c in 0 until 3) {
            val mixed = picture.level(4 * pixel + c) * alpha + ground.level(c) * (255 - alpha)
            out[3 * pixel + c] = (mixed + 127) / 255
        }
    }
    return out
}

/**
 * Why these pixels can hardly be a drawing; null where nothing is suspicious.
 *
 * Names pictures of one colour, and noise: neighbours in a row that differ by more than three
 * quarters of what two pixels taken anywhere differ by.
 */
fun suspicion(picture: Picture): String? {
    val white = over(picture, Ground.WHITE)
    val spread = (0 until 3).maxOf { c ->
        val levels = (c until white.size step 3).map { white[it] }
        levels.max() - levels.min()
    }
    if (spread <= 4) return oneColour(picture, white)
    var near = 0.0
    for (y in 0 until picture.height) for (x in 1 until picture.width) for (c in 0 until 3) {
        val at = 3 * (y * picture.width + x) + c
        near += Math.abs(white[at] - white[at - 3])
    }
    near /= 3.0 * picture.height * (picture.width - 1)
    return if (near > 0.75 * meanDistance(white)) "the picture looks like noise" else null
}

/** What to call a picture of one colour. */
private fun oneColour(picture: Picture, white: IntArray): String {
    if ((3 until picture.rgba.size step 4).all { picture.level(it) == 0 }) {
        return "the picture is empty: every pixel is transparent"
    }
    val colour = white.take(3)
    if (colour.max() - colour.min() > 4) return "every pixel has the same colour (${colour.joinToString()})"
    val name = if (colour[0] <= 8) "black" else if (colour[0] >= 247) "white" else "grey"
    return "the picture is $name: every pixel is ${colour.joinToString()}"
}

/** Mean absolute difference of two pixels taken anywhere, by the histogram of each channel. */
private fun meanDistance(white: IntArray): Double {
    val pixels = white.size / 3
    var total = 0.0
    for (c in 0 until 3) {
        val counts = LongArray(256)
        for (at in c until white.size step 3) counts[white[at]]++
        // Σ over level steps of (pixels at or below) × (pixels above): each such pair crosses it.
        var below = 0L
        for (level in 0 until 255) {
            below += counts[level]
            total += below.toDouble() * (pixels - below)
        }
    }
    return 2 * total / (3.0 * pixels * pixels)
}
