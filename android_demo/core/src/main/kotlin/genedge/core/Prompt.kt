package genedge.core

/*
 * From what a person types to what a generator reads. All of it goes by ASCII alone: regular
 * expressions and case rules of Android, of the JVM and of Python differ beyond it.
 */

const val LONGEST_PROMPT = 2000

/** Python's white space, which str.strip takes off; Kotlin's isWhitespace is another set. */
private fun isSpace(c: Char) = c in '\t'..'\r' || c in '\u001c'..' ' || c == '\u0085' ||
    c == '\u00a0' || c == '\u1680' || c in '\u2000'..'\u200a' || c == '\u2028' ||
    c == '\u2029' || c == '\u202f' || c == '\u205f' || c == '\u3000'

private fun isAsciiSpace(c: Char) = c == ' ' || c in '\t'..'\r'

internal fun asciiLower(text: String): String {
    val out = CharArray(text.length) { if (text[it] in 'A'..'Z') text[it] + 32 else text[it] }
    return String(out)
}

/** The prompt, or [BadRequest] where it is empty, no Unicode, holds NUL, or is too long. */
fun checkedPrompt(prompt: String): String {
    if ('\u0000' in prompt) throw BadRequest("the prompt holds a NUL character; remove it")
    var i = 0
    while (i < prompt.length) {
        val c = prompt[i]
        if (c.isHighSurrogate() && i + 1 < prompt.length && prompt[i + 1].isLowSurrogate()) i++
        else if (c.isSurrogate()) throw BadRequest("the prompt is no valid Unicode text; type it anew")
        i++
    }
    val length = prompt.codePointCount(0, prompt.length)
    if (length > LONGEST_PROMPT) {
        throw BadRequest("the prompt has $length characters; use at most $LONGEST_PROMPT")
    }
    if (prompt.all { isSpace(it) }) {
        throw BadRequest("the prompt is empty; say what to draw, for example: a red apple")
    }
    return prompt
}

/** ("a red apple", "noto") of "a red apple, noto style" or "a red apple in noto style". */
fun splitStyle(prompt: String, styles: List<String>): Pair<String, String> {
    var end = prompt.length
    fun back() { while (end > 0 && isAsciiSpace(prompt[end - 1])) end-- }
    fun backOver(word: String): Boolean {
        val from = end - word.length
        if (from < 0 || asciiLower(prompt.substring(from, end)) != asciiLower(word)) return false
        end = from
        return true
    }
    back()
    if (end > 0 && prompt[end - 1] in ".!") end--
    back()
    if (!backOver("style")) return prompt to ""
    val word = end
    back()
    if (end == word) return prompt to ""
    val nameEnd = end
    var found = prompt to ""
    for (style in styles) {
        end = nameEnd
        if (!backOver(style)) continue
        val name = end
        back()
        val cut = if (end > 0 && prompt[end - 1] == ',') {
            end--
            true
        } else {
            // "in" stands between spaces
            val spaced = end < name && backOver("in")
            spaced && end > 0 && isAsciiSpace(prompt[end - 1])
        }
        if (!cut) continue
        back()
        if (found.second.isEmpty() || end < found.first.length) {
            found = prompt.substring(0, end) to asciiLower(style)
        }
    }
    return found
}

/** What is tokenized: A–Z lower-cased, spaces at the ends off, one put in front. */
fun normalized(prompt: String): String = " " + asciiLower(prompt).trim(' ')

/** Everything one picture is drawn from, and what the user should be told of it. */
class Feed(
    val inputs: Map<String, Tensor>,
    val prompt: String,
    val seed: Long,
    val style: String,
    val warnings: List<String>,
)

/**
 * Inputs of the generator for one picture.
 *
 * style: a name of the signature's styles; "" takes the one that the prompt names (", … style" at
 * its end), else one chosen by the seed. Throws [BadRequest] for what can not be used.
 */
fun prepare(
    signature: Signature,
    tokenizer: Tokenizer?,
    prompt: String,
    seed: Long,
    style: String = "",
): Feed {
    if (seed < 0) throw BadRequest("seed $seed can not be used; it must not be negative")
    val warnings = ArrayList<String>()
    var text = prompt
    var chosen = style
    if (tokenizer != null) {
        val (rest, named) = splitStyle(checkedPrompt(prompt), signature.styles)
        text = checkedPrompt(rest)
        if (chosen.isEmpty()) chosen = named
    }
    if (chosen.isNotEmpty() && chosen !in signature.styles) {
        val known = signature.styles.joinToString().ifEmpty { "none" }
        throw BadRequest("style $chosen is unknown; this generator has: $known")
    }
    if (chosen.isEmpty() && signature.styles.isNotEmpty()) {
        chosen = signature.styles[choice(seed, signature.styles.size, STYLE_CHOICE)]
    }
    val inputs = LinkedHashMap<String, Tensor>()
    for ((name, spec) in signature.inputs) {
        val value = when (spec.source) {
            "prompt" -> tokens(signature, tokenizer, text, warnings)
            "noise" -> Tensor.Floats(noise(seed, spec.size), spec.shape)
            "meaning" -> oneHot(spec, choice(seed, spec.shape.last(), MEANING_CHOICE))
            else -> oneHot(spec, signature.styles.indexOf(chosen))
        }
        inputs[name] = spec.check(name, value)
    }
    return Feed(inputs, prompt, seed, chosen, warnings)
}

private fun oneHot(spec: TensorSpec, which: Int): Tensor {
    val width = spec.shape.last()
    val values = FloatArray(spec.size) { if (it % width == which) 1f else 0f }
    return Tensor.Floats(values, spec.shape)
}

private fun tokens(
    signature: Signature,
    tokenizer: Tokenizer?,
    text: String,
    warnings: MutableList<String>,
): Tensor {
    val length = signature.length
    val pad = signature.pad
    if (tokenizer == null || length == null || pad == null) {
        throw BadRequest("this artifact takes a prompt and has no tokenizer")
    }
    val ids = tokenizer.encode(normalized(text))
    val padded = LongArray(length) { if (it < ids.size) ids[it].toLong() else pad.toLong() }
    val used = padded.count { it != pad.toLong() }
    val lost = if (ids.size > length) {
        tokenizer.decode(ids.copyOfRange(length, ids.size)).trim { isSpace(it) }
    } else {
        ""
    }
    if (lost.isNotEmpty()) {
        warnings += "the prompt is too long; not drawn: $lost"
    } else if (used > 0.75 * text.toByteArray(Charsets.UTF_8).size) {
        warnings += "the generator knows no word of $text; the picture is a guess"
    }
    return Tensor.Longs(padded, intArrayOf(1, length))
}
