package example

import genedge.core.Answering
import genedge.core.Runtime
import genedge.core.Tensor
import genedge.core.bundled
import genedge.core.inFolder
import genedge.core.readArtifact
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test
import java.io.File

/** The listing of docs/embed.md, run. */
class EmbedTest {
    @Test
    fun `the listing draws and leaves nothing open`() {
        val output = readArtifact(bundled).manifest.signature.output
        val opened = ArrayList<Answering>()
        val runtime = Runtime { _, component, _ ->
            Answering {
                mapOf(component.outputs[0] to Tensor.Floats(FloatArray(output.size) { 1f }, output.shape))
            }.also { opened += it }
        }
        inFolder { home ->
            val png = File(home, "fox.png")
            repeat(2) { drawOne(File(home, "artifacts"), { File(bundled, it).inputStream() }, runtime, "a fox", png) }
            assertTrue(png.length() > 500)
            assertEquals(1, File(home, "artifacts").list()!!.size)
        }
        assertEquals(2 * readArtifact(bundled).manifest.components.size, opened.size)
        assertTrue(opened.all { it.closed })
    }
}
