package genedge.core

import com.google.gson.JsonArray
import com.google.gson.JsonObject
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertTrue
import org.junit.Test
import java.io.ByteArrayOutputStream
import java.io.File
import java.io.FileNotFoundException
import java.io.IOException
import java.io.InputStream
import java.security.MessageDigest
import java.util.zip.ZipEntry
import java.util.zip.ZipOutputStream

class InstallTest {
    private fun bundledFile(name: String): InputStream = File(bundled, name).inputStream()

    private fun nothingIn(home: File) = assertEquals(emptyList<String>(), home.list()!!.toList())

    /** [bytes] bytes that no heap of this test could hold. */
    private class Long(private val bytes: kotlin.Long) : InputStream() {
        private var at = 0L

        override fun read(): Int = if (at < bytes) (at++ and 255).toInt() else -1

        override fun read(b: ByteArray, off: Int, len: Int): Int {
            if (at >= bytes) return -1
            val n = minOf(len.toLong(), bytes - at).toInt()
            for (i in 0 until n) b[off + i] = (at++).toByte()
            return n
        }
    }

    private fun hashOf(stream: InputStream): String {
        val digest = MessageDigest.getInstance("SHA-256")
        val block = ByteArray(1 shl 16)
        while (true) {
            val n = stream.read(block)
            if (n < 0) return hex(digest.digest())
            digest.update(block, 0, n)
        }
    }

    @Test
    fun `an artifact larger than the heap is copied and hashed as a stream`() {
        val size = 130L shl 20
        assertTrue(java.lang.Runtime.getRuntime().maxMemory() < size / 2)
        val manifest = tinyManifest { row: JsonObject ->
            val file = row.getAsJsonArray("components")[0].asJsonObject.getAsJsonArray("files")[0].asJsonObject
            file.addProperty("bytes", size)
            file.addProperty("sha256", hashOf(Long(size)))
        }.toString()
        inFolder { home ->
            val artifact = install(home, { if (it == MANIFEST) manifest.byteInputStream() else Long(size) })
            assertEquals(size, File(artifact.folder, "image.onnx").length())
            checkFiles(artifact)
        }
    }

    @Test
    fun `a copied artifact is whole and is copied once`() {
        inFolder { home ->
            var seen = 0L
            val artifact = install(home, ::bundledFile) { _, done, total ->
                assertTrue(done in seen..total)
                seen = done
            }
            checkFiles(artifact, golden = true)
            assertEquals(listOf(artifact.folder), installed(home))
            val again = install(home, { if (it == MANIFEST) bundledFile(it) else throw AssertionError(it) })
            assertEquals(artifact.folder, again.folder)
        }
    }

    @Test
    fun `golden pictures may be left out of what is copied`() {
        inFolder { home ->
            val artifact = install(home, { if (it == "golden.npz") throw FileNotFoundException(it) else bundledFile(it) })
            checkFiles(artifact)
            assertFalse(File(artifact.folder, "golden.npz").exists())
        }
    }

    @Test
    fun `nothing is left of an artifact that is damaged, missing or stopped`() {
        inFolder { home ->
            refused<DamagedArtifact>("text.onnx is missing") {
                install(home, { if (it == "text.onnx") throw FileNotFoundException(it) else bundledFile(it) })
            }
            nothingIn(home)
            val cut = { name: String ->
                val data = File(bundled, name).readBytes()
                (if (name == "image.onnx") data.copyOf(data.size - 1) else data).inputStream()
            }
            refused<DamagedArtifact>("image.onnx is cut short") { install(home, cut) }
            nothingIn(home)
            val longer = { name: String ->
                val data = File(bundled, name).readBytes()
                (if (name == "image.onnx") data + 0 else data).inputStream()
            }
            refused<DamagedArtifact>("image.onnx is longer") { install(home, longer) }
            nothingIn(home)
            val flipped = { name: String ->
                val data = File(bundled, name).readBytes()
                if (name == "tokenizer.json") data[500] = (data[500].toInt() xor 1).toByte()
                data.inputStream()
            }
            refused<DamagedArtifact>("tokenizer.json: sha256") { install(home, flipped) }
            nothingIn(home)
            var blocks = 0
            refused<Cancelled>("stopped") { install(home, ::bundledFile, stop = { blocks++ > 20 }) }
            nothingIn(home)
            val broken = { name: String ->
                if (name != "image.onnx") bundledFile(name)
                else object : InputStream() {
                    override fun read(): Int = throw IOException("asset is gone")
                }
            }
            refused<DamagedArtifact>("asset is gone") { install(home, broken) }
            nothingIn(home)
        }
    }

    @Test
    fun `an artifact that is too large for the storage is refused before it is copied`() {
        val manifest = tinyManifest { row: JsonObject ->
            val file = row.getAsJsonArray("components")[0].asJsonObject.getAsJsonArray("files")[0].asJsonObject
            file.addProperty("bytes", 1L shl 60)
        }.toString()
        inFolder { home ->
            refused<EnvironmentFailed>("free some space") {
                install(home, { if (it == MANIFEST) manifest.byteInputStream() else throw AssertionError(it) })
            }
            nothingIn(home)
        }
    }

    @Test
    fun `a full storage and a folder that can not be written are named`() {
        val full = storageFailed("image.pte", IOException("write failed: ENOSPC (No space left on device)"))
        assertEquals("image.pte: storage is full; free some space and try again", full.message)
        inFolder { home ->
            val file = File(home, "file").apply { writeText("") }
            refused<EnvironmentFailed>("can not be written") { install(File(file, "sub"), ::bundledFile) }
        }
    }

    @Test
    fun `what a crash left half-written is removed and not listed`() {
        inFolder { home ->
            File(home, ".partial-x").apply { mkdirs() }.resolve(MANIFEST).writeText("{")
            File(home, "empty").mkdirs()
            assertEquals(emptyList<File>(), installed(home))
            assertFalse(File(home, ".partial-x").exists())
        }
    }

    private fun zip(vararg entries: Pair<String, ByteArray>): InputStream {
        val out = ByteArrayOutputStream()
        ZipOutputStream(out).use { zip ->
            for ((name, data) in entries) {
                zip.putNextEntry(ZipEntry(name))
                zip.write(data)
            }
        }
        return out.toByteArray().inputStream()
    }

    private val tiny = tinyManifest().toString().toByteArray()
    private val model = byteArrayOf(1, 2, 3, 4)

    @Test
    fun `a zip of an artifact's folder is opened`() {
        inFolder { home ->
            val artifact = installZip(home, zip("tiny/" to ByteArray(0), "tiny/$MANIFEST" to tiny, "tiny/image.onnx" to model))
            checkFiles(artifact)
            assertEquals(artifact.folder, installZip(home, zip("image.onnx" to model, MANIFEST to tiny)).folder)
            val finders = zip("tiny/$MANIFEST" to tiny, "__MACOSX/tiny/._image.onnx" to model, "tiny/image.onnx" to model)
            assertEquals(artifact.folder, installZip(home, finders).folder)
            assertEquals(1, home.list()!!.size)
        }
    }

    @Test
    fun `a zip that is no artifact leaves nothing`() {
        inFolder { home ->
            val cases = listOf(
                zip(MANIFEST to tiny, "../image.onnx" to model) to "does not belong",
                zip("a/$MANIFEST" to tiny, "b/image.onnx" to model) to "does not belong",
                zip("a/b/$MANIFEST" to tiny) to "does not belong",
                zip("../$MANIFEST" to tiny, "../image.onnx" to model) to "does not belong",
                zip("image.onnx" to model) to "no $MANIFEST",
                zip(MANIFEST to tiny) to "missing",
                zip(MANIFEST to tiny, "image.onnx" to ByteArray(4)) to "sha256",
                "no zip".byteInputStream() to "no zip",
                ByteArray(0).inputStream() to "no zip",
            )
            for ((stream, part) in cases) {
                refused<DamagedArtifact>(part) { installZip(home, stream) }
                nothingIn(home)
            }
            refused<DamagedArtifact>("more than") {
                installZip(home, zip("big" to ByteArray(3 shl 20)), limit = 2L shl 20)
            }
            nothingIn(home)
        }
    }

    @Test
    fun `a pipeline is refused and leaves nothing`() {
        val pipeline = tinyManifest { row: JsonObject ->
            row.add("steps", JsonArray().apply { add("sampler") })
        }.toString().toByteArray()
        inFolder { home ->
            refused<UnsupportedArtifact>("pipeline") { installZip(home, zip(MANIFEST to pipeline, "image.onnx" to model)) }
            refused<UnsupportedArtifact>("pipeline") { install(home, { pipeline.inputStream() }) }
            nothingIn(home)
        }
    }
}
