package genedge.core

import com.google.gson.JsonArray
import com.google.gson.JsonElement
import com.google.gson.JsonObject
import java.io.File
import java.io.IOException
import java.io.InputStream

private const val LONGEST_TOKENIZER = 64 shl 20

/**
 * Byte-level BPE as tokenizer.json describes it, without normaliser and without character classes,
 * so that no platform's version of Unicode changes an id.
 */
class Tokenizer internal constructor(
    private val ids: Map<String, Int>,
    private val ranks: Map<Long, Merge>,
    private val added: List<Pair<String, Int>>,
) {
    internal class Merge(val rank: Int, val id: Int)

    private val byteIds = IntArray(256) {
        ids[byteChars[it].toString()] ?: throw Malformed("the vocabulary lacks byte $it")
    }
    private val texts: Map<Int, String> = ids.entries.associate { it.value to it.key }
    private val special: Set<Int> = added.map { it.second }.toSet()

    /** Ids of [text], which is well-formed UTF-16. */
    fun encode(text: String): IntArray {
        val out = IntList()
        var from = 0
        var at = 0
        while (at < text.length) {
            // An added token is one id wherever its text stands; of two, the longer one.
            val token = added.filter { text.startsWith(it.first, at) }.maxByOrNull { it.first.length }
            if (token == null) {
                at++
            } else {
                encodePlain(text.substring(from, at), out)
                out.add(token.second)
                at += token.first.length
                from = at
            }
        }
        encodePlain(text.substring(from), out)
        return out.toArray()
    }

    /** Text of [some] ids, added tokens left out, bytes that are no UTF-8 replaced. */
    fun decode(some: IntArray): String {
        val bytes = java.io.ByteArrayOutputStream()
        for (id in some) if (id !in special) texts[id]?.forEach { bytes.write(charBytes[it] ?: 63) }
        return String(bytes.toByteArray(), Charsets.UTF_8)
    }

    /** Cuts before every space; the space belongs to what follows it. */
    private fun encodePlain(text: String, out: IntList) {
        var start = 0
        for (i in 1 until text.length) {
            if (text[i] == ' ') {
                merge(text.substring(start, i), out)
                start = i
            }
        }
        if (start < text.length) merge(text.substring(start), out)
    }

    /** Merges the pair of lowest rank, the leftmost of equals, until none is left. */
    private fun merge(piece: String, out: IntList) {
        val bytes = piece.toByteArray(Charsets.UTF_8)
        val symbols = IntArray(bytes.size) { byteIds[bytes[it].toInt() and 255] }
        val next = IntArray(bytes.size) { if (it + 1 < bytes.size) it + 1 else -1 }
        val pairs = arrayOfNulls<Merge>(bytes.size)
        fun look(i: Int) {
            pairs[i] = if (next[i] < 0) null else ranks[pair(symbols[i], symbols[next[i]])]
        }
        for (i in symbols.indices) look(i)
        while (symbols.isNotEmpty()) {
            var best = -1
            var before = -1
            var last = -1
            var i = 0
            while (i >= 0) {
                val here = pairs[i]
                if (here != null && (best < 0 || here.rank < pairs[best]!!.rank)) {
                    best = i
                    before = last
                }
                last = i
                i = next[i]
            }
            if (best < 0) break
            symbols[best] = pairs[best]!!.id
            next[best] = next[next[best]]
            look(best)
            if (before >= 0) look(before)
        }
        var i = if (symbols.isEmpty()) -1 else 0
        while (i >= 0) {
            out.add(symbols[i])
            i = next[i]
        }
    }

    companion object {
        internal fun pair(left: Int, right: Int) = left.toLong() shl 32 or right.toLong()
    }
}

private class IntList {
    private var values = IntArray(64)
    private var size = 0

    fun add(value: Int) {
        if (size == values.size) values = values.copyOf(2 * size)
        values[size++] = value
    }

    fun toArray(): IntArray = values.copyOf(size)
}

/** GPT-2's table: printable bytes stand for themselves, the others for characters from U+0100 on. */
private val byteChars: CharArray = run {
    var other = 0x100
    CharArray(256) { b ->
        val printable = b in 0x21..0x7E || b in 0xA1..0xAC || b in 0xAE..0xFF
        if (printable) b.toChar() else (other++).toChar()
    }
}
private val charBytes: Map<Char, Int> = byteChars.withIndex().associate { it.value to it.index }

/** Reads tokenizer.json in [file]. Throws [DamagedArtifact], [UnsupportedArtifact]. */
fun readTokenizer(file: File): Tokenizer = try {
    file.inputStream().use { readTokenizer(it, file.toString()) }
} catch (problem: IOException) {
    throw DamagedArtifact("$file can not be read (${problem.message}); copy it again", problem)
}

/** Reads tokenizer.json; [where] names it in messages. */
fun readTokenizer(stream: InputStream, where: String): Tokenizer {
    val data = readAtMost(stream, LONGEST_TOKENIZER)
        ?: throw DamagedArtifact("$where is longer than a tokenizer can be; export it again")
    try {
        return tokenizerOf(readObject(data.toString(Charsets.UTF_8).reader()), where)
    } catch (problem: Malformed) {
        throw DamagedArtifact("$where is damaged (${problem.message}); export it again", problem)
    }
}

private fun tokenizerOf(row: JsonObject, where: String): Tokenizer {
    val model = row.row("model")
    val steps = steps(row)
    val plain = row.member("normalizer") == null && row.member("post_processor") == null &&
        row.member("truncation") == null && row.member("padding") == null &&
        steps == listOf("Split on space", "ByteLevel") && model.text("type") == "BPE" &&
        listOf("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix")
            .all { model.member(it) == null } &&
        listOf("byte_fallback", "ignore_merges").none { model.member(it)?.isTrue() ?: false }
    if (!plain) {
        throw UnsupportedArtifact(
            "$where: this library reads byte-level BPE cut at spaces; export it as such"
        )
    }
    val ids = HashMap<String, Int>()
    val given = model.row("vocab")
    for (key in given.keySet()) ids[key] = small(given.whole(key), "an id")
    val added = row.list("added_tokens").map { element ->
        val token = element as? JsonObject ?: throw Malformed("an added token is no object")
        val content = token.text("content")
        val odd = listOf("single_word", "lstrip", "rstrip", "normalized")
        if (odd.any { token.member(it)?.isTrue() ?: false } || content.isEmpty()) {
            throw UnsupportedArtifact("$where: added token $content is more than its text")
        }
        ids[content] = small(token.whole("id"), "an id")
        content to ids.getValue(content)
    }
    val merges = HashMap<Long, Tokenizer.Merge>()
    for ((rank, element) in model.list("merges").withIndex()) {
        val (left, right) = mergePair(element)
        val from = ids[left]
        val to = ids[right]
        val id = ids[left + right]
        if (from == null || to == null || id == null) {
            throw Malformed("merge $rank, $left and $right, is not in the vocabulary")
        }
        merges[Tokenizer.pair(from, to)] = Tokenizer.Merge(rank, id)
    }
    return Tokenizer(ids, merges, added)
}

private fun JsonElement.isTrue() =
    isJsonPrimitive && asJsonPrimitive.isBoolean && asBoolean

/** Merges are written as ["a", "b"], in older files as "a b". */
private fun mergePair(element: JsonElement): Pair<String, String> {
    if (element is JsonArray) {
        if (element.size() != 2) throw Malformed("a merge is no pair")
        return element[0].asText("a merge") to element[1].asText("a merge")
    }
    val parts = element.asText("a merge").split(' ')
    if (parts.size != 2) throw Malformed("a merge is no pair")
    return parts[0] to parts[1]
}

/** The pre-tokenizer's steps in words; only two of them are known here. */
private fun steps(row: JsonObject): List<String> {
    val before = row.member("pre_tokenizer") as? JsonObject ?: return emptyList()
    if (before.text("type") != "Sequence") return emptyList()
    return before.list("pretokenizers").map { element ->
        val step = element as? JsonObject ?: throw Malformed("a pre-tokenizer is no object")
        val pattern = (step.member("pattern") as? JsonObject)?.member("String")
        val space = step.text("type") == "Split" && pattern?.asText("pattern") == " " &&
            step.text("behavior") == "MergedWithNext" && step.member("invert")?.isTrue() != true
        val bytes = step.text("type") == "ByteLevel" &&
            listOf("add_prefix_space", "use_regex").none { step.member(it)?.isTrue() ?: false }
        if (space) "Split on space" else if (bytes) "ByteLevel" else step.text("type")
    }
}
