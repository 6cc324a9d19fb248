package genedge.core

import java.io.File
import java.io.IOException

/*
 * Why pictures differ from the float generator's: what would make them agree is tried, and named where
 * it does. As runtime/reasons.py, but for other prompts and other seeds: those need all pictures at once
 * and further runs, and the hashes of the inputs tell them here.
 */

private const val GAIN = 6.0 // dB by which an explanation must bring the pictures closer
private const val ENOUGH = 20.0 // dB that it must reach
private const val SIDE = 128 // of larger pictures the middle is looked at
private const val CLEAR = 60.0 // dB, from which nothing needs a reason

/** A drawn picture and the float generator's, and how far they are apart. */
internal class Apart(val drawn: Picture, val truth: Picture, val psnr: Double)

/** Holds the pairs that are furthest apart, so that a phone never has all pictures in memory. */
internal class Worst(private val most: Int = 8) {
    private val kept = ArrayList<Apart>()
    val pairs: List<Apart> get() = kept

    fun add(drawn: Picture, truth: Picture, psnr: Double) {
        kept += Apart(middle(drawn), middle(truth), psnr)
        kept.sortBy { it.psnr }
        if (kept.size > most) kept.removeAt(most)
    }
}

/** Explanations that bring the worst pictures at least 6 dB closer. */
internal fun reasons(worst: List<Apart>): List<String> {
    val best = worst.map { it.psnr }.average()
    if (worst.isEmpty() || best >= CLEAR) return emptyList()
    val found = ArrayList<String>()
    fun consider(name: String, score: Double) {
        if (score >= maxOf(best + GAIN, ENOUGH)) {
            val shown = String.format(java.util.Locale.ROOT, "%.1f", score)
            found += "$name: undone, the worst pictures have $shown dB"
        }
    }
    swaps(worst).let { (name, score) -> consider(name, score) }
    // A shift of one colour is the same colour.
    if (worst.any { pair -> pair.drawn.rgba.any { it != pair.drawn.rgba[0] } }) {
        shifts(worst).let { (name, score) -> consider(name, score) }
    }
    return found
}

private fun middle(picture: Picture): Picture {
    val width = minOf(SIDE, picture.width)
    val height = minOf(SIDE, picture.height)
    if (width == picture.width && height == picture.height) return picture
    return cut(picture, (picture.width - width) / 2, (picture.height - height) / 2, width, height)
}

private fun cut(picture: Picture, left: Int, top: Int, width: Int, height: Int): Picture {
    val out = ByteArray(4 * width * height)
    for (y in 0 until height) {
        picture.rgba.copyInto(
            out, 4 * y * width, 4 * ((top + y) * picture.width + left), 4 * ((top + y) * picture.width + left + width)
        )
    }
    return Picture(width, height, out)
}

/** The order of colour channels that agrees best, other than the present one. */
private fun swaps(pairs: List<Apart>): Pair<String, Double> {
    val orders = listOf("RBG", "GRB", "GBR", "BRG", "BGR")
    val scored = orders.associateWith { order ->
        pairs.map { pair ->
            val from = pair.drawn.rgba
            val rgba = ByteArray(from.size) { at ->
                if (at % 4 == 3) from[at] else from[at - at % 4 + "RGB".indexOf(order[at % 4])]
            }
            picturePsnr(Picture(pair.drawn.width, pair.drawn.height, rgba), pair.truth)
        }.average()
    }
    val best = scored.maxByOrNull { it.value }!!
    return "swapped channels (${best.key} for RGB)" to best.value
}

/** The shift by one pixel, of the whole or of half of the pixels, that agrees best. */
private fun shifts(pairs: List<Apart>): Pair<String, Double> {
    val width = pairs[0].drawn.width
    val height = pairs[0].drawn.height
    val halves = mapOf<String, (Int, Int) -> Boolean>(
        "the picture" to { _, _ -> true },
        "the left half" to { x, _ -> x < width / 2 },
        "the right half" to { x, _ -> x >= width / 2 },
        "the upper half" to { _, y -> y < height / 2 },
        "the lower half" to { _, y -> y >= height / 2 },
        "every other pixel" to { x, y -> (x + y) % 2 == 0 },
        "every other pixel, from the second" to { x, y -> (x + y) % 2 == 1 },
        "every other row" to { _, y -> y % 2 == 0 },
        "every other row, from the second" to { _, y -> y % 2 == 1 },
        "every other column" to { x, _ -> x % 2 == 0 },
        "every other column, from the second" to { x, _ -> x % 2 == 1 },
    )
    // Where the pixel lies that belongs here.
    val moves = mapOf("down" to (0 to 1), "up" to (0 to -1), "right" to (1 to 0), "left" to (-1 to 0))
    var name = ""
    var most = 0.0
    for ((half, holds) in halves) for ((move, step) in moves) {
        val score = pairs.map { pair ->
            val from = pair.drawn.rgba
            val rgba = ByteArray(from.size) { at ->
                val x = at / 4 % width
                val y = at / 4 / width
                val moved = holds(x, y)
                val fromX = if (moved) (x + step.first + width) % width else x
                val fromY = if (moved) (y + step.second + height) % height else y
                from[4 * (fromY * width + fromX) + at % 4]
            }
            // What comes in from the other side at the edges is not looked at.
            picturePsnr(inner(Picture(width, height, rgba)), inner(pair.truth))
        }.average()
        if (score > most) {
            name = "$half is shifted $move by one pixel"
            most = score
        }
    }
    return name to most
}

private fun inner(picture: Picture) = cut(picture, 1, 1, picture.width - 2, picture.height - 2)

/**
 * Why this CPU may draw other pictures than the artifact was made for; null where it does not. 8-bit
 * weights need a CPU that multiplies int8 without 16-bit sums: every ARM CPU of the last years is one, an
 * x86 one where it has VNNI (an emulator runs on the CPU of the desktop).
 */
internal fun cpuProblem(
    manifest: Manifest,
    machine: String = System.getProperty("os.arch").orEmpty(),
    cpuinfo: () -> String = ::readCpuinfo,
): String? {
    if (manifest.precision != "int8" || manifest.cpu == "portable") return null
    if (machine.startsWith("aarch64") || machine.startsWith("arm")) return null
    val flags = cpuinfo()
    if ("avx512_vnni" in flags || "avx_vnni" in flags) return null
    return "exported for ${manifest.cpu}; this CPU has no VNNI, 8-bit weights saturate"
}

private fun readCpuinfo(): String = try {
    File("/proc/cpuinfo").readText()
} catch (unreadable: IOException) {
    ""
}
