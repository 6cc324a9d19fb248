package genedge.core

import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test
import java.io.File

class PromptTest {
    private val styles = listOf("noto", "3d")
    private val artifact = readArtifact(bundled)
    private val tokenizer = readTokenizer(File(bundled, "tokenizer.json"))

    private fun prepared(prompt: String, seed: Long = 1, style: String = "") =
        prepare(artifact.manifest.signature, tokenizer, prompt, seed, style)

    @Test
    fun `a style at the end of the prompt is read`() {
        val cases = listOf(
            "a red apple, noto style" to ("a red apple" to "noto"),
            "a red apple in 3D style." to ("a red apple" to "3d"),
            "a red apple  ,  NOTO\tStyle ! " to ("a red apple" to "noto"),
            "a red apple" to ("a red apple" to ""),
            "style" to ("style" to ""),
            "noto style" to ("noto style" to ""),
            "a red apple, cubist style" to ("a red apple, cubist style" to ""),
            "notos style" to ("notos style" to ""),
            "apple innoto style" to ("apple innoto style" to ""),
            "applein noto style" to ("applein noto style" to ""),
            ", noto style" to ("" to "noto"),
            "a,, noto style" to ("a," to "noto"),
        )
        for ((prompt, expected) in cases) assertEquals(prompt, expected, splitStyle(prompt, styles))
        assertEquals("a" to "b, c", splitStyle("a, b, c style", listOf("c", "b, c")))
    }

    @Test
    fun `prompts that can not be used are refused`() {
        val bad = listOf("", " ", "\n\t", "\u0085\u3000", "a\u0000b", "x".repeat(2001), "\ud800", "a\udc00\ud800")
        for (prompt in bad) refused<BadRequest>("prompt") { checkedPrompt(prompt) }
        assertEquals(4000, checkedPrompt("🦊".repeat(2000)).length)
        refused<BadRequest>("empty") { prepared(" , noto style") }
    }

    @Test
    fun `a style that is unknown is refused with those known`() {
        refused<BadRequest>("noto") { prepared("an apple", style = "cubist") }
        refused<BadRequest>("negative") { prepared("an apple", seed = -5) }
    }

    @Test
    fun `the chosen style wins over the one in the prompt`() {
        assertEquals("flat", prepared("an apple, noto style", style = "flat").style)
        assertEquals("noto", prepared("an apple, noto style").style)
    }

    @Test
    fun `a prompt too long says what is lost`() {
        val warnings = prepared("apple " .repeat(50) + "zebra").warnings
        assertTrue(warnings.single(), warnings.single().endsWith("zebra"))
        assertTrue(prepared("りんご").warnings.single().contains("guess"))
        assertEquals(emptyList<String>(), prepared("a red apple").warnings)
    }

    @Test
    fun `inputs are made by their source`() {
        val signature = read(tinyManifest()).signature
        val feed = prepare(signature, null, "", 42, "soft")
        assertArrayEquals(noise(42, 4), (feed.inputs.getValue("noise") as Tensor.Floats).values, 0f)
        assertArrayEquals(
            floatArrayOf(0f, 1f), (feed.inputs.getValue("style") as Tensor.Floats).values, 0f
        )
        val meaning = (feed.inputs.getValue("meaning") as Tensor.Floats).values
        assertEquals(1f, meaning[choice(42, 5, MEANING_CHOICE)])
        assertEquals(1f, meaning.sum())
    }
}
