package genedge.core

const val CAP = 100.0 // dB; equal pictures count as this in means

private val grounds = listOf(Ground.WHITE, Ground.BLACK)

private fun sameSize(picture: Picture, reference: Picture) {
    require(picture.width == reference.width && picture.height == reference.height) {
        "sizes differ: ${picture.width} × ${picture.height} and ${reference.width} × ${reference.height}"
    }
}

/** PSNR in dB over white and over black, the lower of the two, at most 100. */
fun picturePsnr(picture: Picture, reference: Picture): Double {
    sameSize(picture, reference)
    return minOf(CAP, grounds.minOf { psnr(over(picture, it), over(reference, it)) })
}

private fun psnr(levels: IntArray, reference: IntArray): Double {
    var sum = 0L
    for (i in levels.indices) {
        val d = levels[i] - reference[i]
        sum += d * d
    }
    return if (sum == 0L) Double.POSITIVE_INFINITY
    else 10 * Math.log10(255.0 * 255.0 / (sum.toDouble() / levels.size))
}

private val taps: DoubleArray = run {
    val raw = DoubleArray(11) { Math.exp(-0.5 * ((it - 5) / 1.5) * ((it - 5) / 1.5)) }
    DoubleArray(11) { raw[it] / raw.sum() }
}

/**
 * SSIM over white and over black, the lower: Gaussian of 11 taps, σ 1.5, range 255, mean over
 * channels and over where the window fits whole (Wang et al., IEEE TIP 2004). Sides of at least 11.
 */
fun pictureSsim(picture: Picture, reference: Picture): Double {
    sameSize(picture, reference)
    require(picture.width >= 11 && picture.height >= 11) { "SSIM needs sides of at least 11" }
    return grounds.minOf { ground ->
        val x = over(picture, ground)
        val y = over(reference, ground)
        (0 until 3).sumOf { ssimOfChannel(x, y, it, picture.width, picture.height) } / 3
    }
}

private fun ssimOfChannel(x: IntArray, y: IntArray, channel: Int, width: Int, height: Int): Double {
    fun blurred(value: (Int) -> Double): DoubleArray {
        val columns = DoubleArray(width * (height - 10))
        for (row in 0 until height - 10) for (column in 0 until width) {
            var sum = 0.0
            for (k in 0..10) sum += taps[k] * value(3 * ((row + k) * width + column) + channel)
            columns[row * width + column] = sum
        }
        val out = DoubleArray((width - 10) * (height - 10))
        for (row in 0 until height - 10) for (column in 0 until width - 10) {
            var sum = 0.0
            for (k in 0..10) sum += taps[k] * columns[row * width + column + k]
            out[row * (width - 10) + column] = sum
        }
        return out
    }
    val mx = blurred { x[it].toDouble() }
    val my = blurred { y[it].toDouble() }
    val xx = blurred { x[it].toDouble() * x[it] }
    val yy = blurred { y[it].toDouble() * y[it] }
    val xy = blurred { x[it].toDouble() * y[it] }
    val c1 = (0.01 * 255) * (0.01 * 255)
    val c2 = (0.03 * 255) * (0.03 * 255)
    var sum = 0.0
    for (i in mx.indices) {
        val square = mx[i] * mx[i] + my[i] * my[i]
        val variance = xx[i] + yy[i] - square
        val index = (2 * mx[i] * my[i] + c1) * (2 * (xy[i] - mx[i] * my[i]) + c2)
        sum += index / ((square + c1) * (variance + c2))
    }
    return sum / mx.size
}

/** Largest difference in grey levels, over white and over black. */
fun maxError(picture: Picture, reference: Picture): Int {
    sameSize(picture, reference)
    return grounds.maxOf { ground ->
        val x = over(picture, ground)
        val y = over(reference, ground)
        x.indices.maxOf { Math.abs(x[it] - y[it]) }
    }
}

/** Mean of picture minus reference in grey levels: red, green, blue over white, and alpha. */
fun signedError(picture: Picture, reference: Picture): DoubleArray {
    sameSize(picture, reference)
    val x = over(picture, Ground.WHITE)
    val y = over(reference, Ground.WHITE)
    val sums = LongArray(4)
    for (i in x.indices) sums[i % 3] += (x[i] - y[i]).toLong()
    for (i in 3 until picture.rgba.size step 4) sums[3] += (picture.level(i) - reference.level(i)).toLong()
    return DoubleArray(4) { sums[it].toDouble() / (picture.width * picture.height) }
}

/**
 * (kept, all): levels that are 0 or 255 in the reference, over alpha and over colour on white, and
 * those of them that come back within 2.
 */
fun flatKept(picture: Picture, reference: Picture): Pair<Long, Long> {
    sameSize(picture, reference)
    var kept = 0L
    var all = 0L
    fun look(mine: Int, truth: Int) {
        if (truth != 0 && truth != 255) return
        all++
        if (Math.abs(mine - truth) <= 2) kept++
    }
    for (i in 3 until picture.rgba.size step 4) look(picture.level(i), reference.level(i))
    val x = over(picture, Ground.WHITE)
    val y = over(reference, Ground.WHITE)
    for (i in x.indices) look(x[i], y[i])
    return kept to all
}
