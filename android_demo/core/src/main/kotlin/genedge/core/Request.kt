package genedge.core

import java.io.File
import java.security.SecureRandom

const val MOST_PICTURES = 64

/** What a person asks for: one picture of [prompt] for each seed; style "" leaves it to the prompt. */
class Request(val prompt: String, val style: String, val seeds: List<Long>)

/** A seed from the system's randomness, short enough to be typed again (below 2³¹). */
fun newSeed(): Long = (SecureRandom().nextInt() ushr 1).toLong()

/**
 * Reads the fields of a screen as they were typed; an empty [seed] takes one from [draw]. [count]
 * pictures have seeds that follow one another. Throws [BadRequest].
 */
fun parseRequest(
    prompt: String,
    style: String,
    seed: String,
    count: Int,
    draw: () -> Long = ::newSeed,
): Request {
    checkedPrompt(prompt)
    if (count !in 1..MOST_PICTURES) {
        throw BadRequest("$count pictures can not be drawn at once; use 1 to $MOST_PICTURES")
    }
    val first = if (seed.trim(' ').isEmpty()) draw() else parseSeed(seed)
    if (first > Long.MAX_VALUE - (count - 1)) {
        throw BadRequest("seed $first leaves no room for $count pictures; use a smaller one")
    }
    return Request(prompt, style, List(count) { first + it })
}

/** A file name that says prompt and seed in letters of any script, digits and hyphens; 40 of them at most. */
fun fileName(feed: Feed): String {
    val words = StringBuilder()
    for (point in feed.prompt.codePoints().toArray()) {
        if (Character.isLetterOrDigit(point)) words.appendCodePoint(Character.toLowerCase(point)) else words.append('-')
    }
    val slug = words.split('-').filter { it.isNotEmpty() }.joinToString("-").codePoints().toArray()
    val short = String(slug, 0, minOf(40, slug.size)).trim('-')
    return "${short.ifEmpty { "picture" }}-${feed.seed}.png"
}

/** The file of this name in [folder]; null where the name leaves it, or there is none. */
fun fileIn(folder: File, name: String?): File? {
    if (name.isNullOrEmpty() || name.startsWith(".") || name.any { it in "/\\\u0000" }) return null
    return File(folder, name).takeIf { it.isFile }
}

/** Bytes of memory that this process holds (VmRSS of [status]); null where that is not known. */
fun residentBytes(status: File = File("/proc/self/status")): Long? = try {
    val line = status.useLines { lines -> lines.firstOrNull { it.startsWith("VmRSS:") } }
    line?.filter { it in '0'..'9' }?.toLongOrNull()?.times(1024)
} catch (unknown: java.io.IOException) {
    null
}
