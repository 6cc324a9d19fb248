package genedge.core

import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test
import java.io.File
import java.util.zip.ZipEntry
import java.util.zip.ZipFile
import java.util.zip.ZipOutputStream

class GoldenTest {
    private val file = File(bundled, "golden.npz")

    @Test
    fun `prompts, seeds and pictures are read`() {
        Golden.open(file).use { golden ->
            assertEquals(64, golden.prompts.size)
            assertEquals(golden.prompts.size, golden.seeds.size)
            assertTrue(golden.prompts.all { it.isNotBlank() && '\u0000' !in it })
            val pairs = golden.pictures().toList()
            assertEquals(64, pairs.size)
            assertTrue(pairs.all { it.first.width == 64 && it.second != null })
            assertTrue(pairs.map { it.first.rgba.toList() }.toSet().size > 60)
        }
    }

    @Test
    fun `a golden file cut short or flipped is damaged`() {
        val data = file.readBytes()
        val random = java.util.Random(2)
        inFolder { folder ->
            val other = File(folder, "golden.npz")
            for (cut in listOf(0, 3, 100, data.size / 2, data.size - 1)) {
                other.writeBytes(data.copyOf(cut))
                refused<DamagedArtifact>("golden.npz") { Golden.open(other).close() }
            }
            var noticed = 0
            repeat(30) {
                val flipped = data.copyOf()
                val at = random.nextInt(data.size)
                flipped[at] = (flipped[at].toInt() xor (1 shl random.nextInt(8))).toByte()
                other.writeBytes(flipped)
                try {
                    Golden.open(other).use { golden -> golden.pictures().forEach { _ -> } }
                } catch (expected: DamagedArtifact) {
                    noticed++
                }
            }
            // a time stamp in the zip may change without harm; the sha256 notices even that
            assertTrue("$noticed of 30", noticed > 26)
        }
        inFolder { refused<DamagedArtifact>("missing") { Golden.open(File(it, "golden.npz")) } }
    }

    /** golden.npz with one array's bytes changed. */
    private fun changed(folder: File, name: String, change: (ByteArray) -> ByteArray?): File {
        val other = File(folder, "changed.npz")
        ZipFile(file).use { zip ->
            ZipOutputStream(other.outputStream()).use { out ->
                for (entry in zip.entries()) {
                    val data = zip.getInputStream(entry).readBytes()
                    val mine = (if (entry.name == "$name.npy") change(data) else data) ?: continue
                    out.putNextEntry(ZipEntry(entry.name))
                    out.write(mine)
                }
            }
        }
        return other
    }

    private fun header(from: String, to: String): (ByteArray) -> ByteArray = { data ->
        val text = String(data, Charsets.ISO_8859_1)
        check(from in text)
        text.replaceFirst(from, to).toByteArray(Charsets.ISO_8859_1)
    }

    @Test
    fun `arrays of another form are refused`() {
        inFolder { folder ->
            val cases = mapOf<Pair<String, String>, (ByteArray) -> ByteArray?>(
                ("prompts" to "no prompts") to { _ -> null },
                ("seeds" to "seeds are") to header("<i8", "<f8"),
                ("prompts" to "prompts are") to header("<U", "<O"),
                ("pictures" to "pictures are") to header("|u1", "|i1"),
                ("pictures" to "shape") to header("(64, 64,", "(63, 64,"),
                ("pictures" to "C order") to header("False", "True "),
                ("seeds" to "header") to header("NUMPY", "NUMPZ"),
                ("seeds" to "too long") to header("(64,)", "(99999999,)"),
                ("pictures" to "cut short") to { data: ByteArray -> data.copyOf(data.size / 2) },
                ("pictures" to "no pictures") to { _ -> null },
            )
            for ((what, change) in cases) {
                val other = changed(folder, what.first, change)
                refused<DamagedArtifact>(what.second) {
                    Golden.open(other).use { golden -> golden.pictures().forEach { _ -> } }
                }
            }
        }
    }
}
