package genedge.core

import com.google.gson.JsonObject
import com.google.gson.JsonParser
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test
import java.io.File
import java.util.Locale

class TokenizerTest {
    private val file = File(bundled, "tokenizer.json")
    private val tokenizer = readTokenizer(file)

    private fun ids(text: String) = tokenizer.encode(normalized(text)).toList()

    @Test
    fun `ids equal the shared vectors`() {
        val signature = readArtifact(bundled).manifest.signature
        for (row in vectors("tokens")) {
            val expected = row.getAsJsonArray("ids").map { it.asLong }
            val text = row.get("text").asString
            val mine = ids(text).take(signature.length!!).map { it.toLong() }
            val padded = mine + List(expected.size - mine.size) { signature.pad!!.toLong() }
            assertEquals(text, expected, padded)
        }
    }

    @Test
    fun `the language of the phone changes nothing`() {
        val before = Locale.getDefault()
        val expected = ids("TITANIC IN İSTANBUL")
        try {
            Locale.setDefault(Locale.forLanguageTag("tr-TR"))
            assertEquals(expected, ids("TITANIC IN İSTANBUL"))
            assertEquals("titanic" to "3d", splitStyle("titanic IN 3D STYLE", listOf("3d")))
        } finally {
            Locale.setDefault(before)
        }
    }

    @Test
    fun `ids of any bytes decode to what was encoded`() {
        for (text in listOf("a", "红苹果", "👩‍🚀", "e\u0301", "tab\tand\nline", "  two  spaces ")) {
            assertEquals(text, tokenizer.decode(tokenizer.encode(text)))
        }
    }

    @Test
    fun `an added token inside a prompt is one id`() {
        assertEquals(listOf(0), tokenizer.encode("<pad>").toList())
        val (left, right) = tokenizer.encode(" a") to tokenizer.encode(" b")
        assertEquals(left.toList() + 0 + right.toList(), tokenizer.encode(" a<pad> b").toList())
        assertEquals("ab", tokenizer.decode(tokenizer.encode("a<pad>b")))
    }

    @Test
    fun `the longest prompt takes no long time`() {
        val began = System.nanoTime()
        for (text in listOf("a", "in", "🦊", "ing an")) tokenizer.encode(text.repeat(2000 / text.length))
        assertTrue((System.nanoTime() - began) / 1e9 < 5)
    }

    private fun changed(change: (JsonObject) -> Unit): () -> Unit = {
        val row = JsonParser.parseString(file.readText()).asJsonObject.also(change)
        readTokenizer(row.toString().byteInputStream(), "tokenizer.json")
    }

    @Test
    fun `a tokenizer of another kind is refused, not guessed at`() {
        val kinds = listOf<(JsonObject) -> Unit>(
            { it.add("normalizer", JsonParser.parseString("""{"type": "NFC"}""")) },
            { it.remove("pre_tokenizer") },
            { it.getAsJsonObject("model").addProperty("type", "Unigram") },
            { it.getAsJsonObject("model").addProperty("byte_fallback", true) },
            { it.getAsJsonObject("model").addProperty("unk_token", "<unk>") },
            { it.getAsJsonArray("added_tokens")[0].asJsonObject.addProperty("lstrip", true) },
        )
        for (kind in kinds) refused<UnsupportedArtifact>("tokenizer.json", changed(kind))
    }

    @Test
    fun `a damaged tokenizer is named`() {
        val kinds = listOf<(JsonObject) -> Unit>(
            { it.getAsJsonObject("model").getAsJsonObject("vocab").remove("Ġ") },
            { it.getAsJsonObject("model").getAsJsonArray("merges").add("one two three") },
            { it.getAsJsonObject("model").getAsJsonObject("vocab").addProperty("a", -1) },
            { it.remove("model") },
            { it.remove("added_tokens") },
        )
        for (kind in kinds) refused<DamagedArtifact>("tokenizer.json", changed(kind))
        val text = file.readText()
        for (cut in listOf(0, 1, 100, text.length / 2, text.length - 2)) {
            refused<DamagedArtifact>("tokenizer.json") {
                readTokenizer(text.take(cut).byteInputStream(), "tokenizer.json")
            }
        }
    }
}
