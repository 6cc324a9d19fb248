package genedge.core

import com.google.gson.JsonArray
import com.google.gson.JsonObject
import org.junit.Assert.assertEquals
import org.junit.Test
import java.io.File

class ManifestTest {
    private fun JsonObject.component() = getAsJsonArray("components")[0].asJsonObject
    private fun JsonObject.file() = component().getAsJsonArray("files")[0].asJsonObject
    private fun JsonObject.signature() = getAsJsonObject("signature")
    private fun JsonObject.output() = signature().getAsJsonObject("output")
    private fun JsonObject.noise() = signature().getAsJsonObject("inputs").getAsJsonObject("noise")
    private fun shape(vararg n: Number) = JsonArray().apply { n.forEach { add(it) } }

    @Test
    fun `a manifest that export wrote is read`() {
        val manifest = readArtifact(bundled).manifest
        assertEquals("emoji", manifest.name)
        assertEquals(64, manifest.goldenCount)
        assertEquals(sha256Of(File(bundled, MANIFEST)), manifest.hash)
        assertEquals(manifest.files.sumOf { it.bytes } + File(bundled, MANIFEST).length(), manifest.bytes)
        checkFiles(readArtifact(bundled), golden = true)
    }

    @Test
    fun `a component's file may use other names`() {
        val component = read(tinyManifest { row ->
            row.component().add("file_names", JsonObject().apply { addProperty("noise", "input.1") })
        }).components.single()
        assertEquals(listOf("input.1", "style"), component.inputs.map { component.fileName(it) })
        refused<DamagedArtifact>("noise is no text") {
            read(tinyManifest { row ->
                row.component().add("file_names", JsonObject().apply { addProperty("noise", 1) })
            })
        }
    }

    @Test
    fun `a newer schema is refused with both versions`() {
        refused<UnsupportedArtifact>("version 2 is newer than this app reads (1)") {
            read(tinyManifest { it.addProperty("schema", 2) })
        }
    }

    @Test
    fun `pipelines are refused in one clear message`() {
        for (steps in listOf(listOf("sampler"), listOf("feed_forward", "upscale"), emptyList())) {
            refused<UnsupportedArtifact>("is a pipeline (steps: ${steps.joinToString()})") {
                read(tinyManifest { row ->
                    row.add("steps", JsonArray().apply { steps.forEach { add(it) } })
                })
            }
        }
    }

    @Test
    fun `a generator that starts from a picture is whole and can not be drawn here`() {
        refused<UnsupportedArtifact>("starts from a picture") {
            read(tinyManifest { it.noise().addProperty("source", "image") })
        }
        assertEquals("rgba", read(tinyManifest { it.signature().addProperty("layout", "rgba") }).signature.layout)
    }

    @Test
    fun `a target without a runtime on phones is refused`() {
        refused<UnsupportedArtifact>("--target executorch or onnx") {
            read(tinyManifest { it.addProperty("target", "openvino") })
        }
    }

    @Test
    fun `a manifest that contradicts itself is damaged`() {
        val cases = mapOf<String, (JsonObject) -> Unit>(
            "schema" to { it.addProperty("schema", 0) },
            "schema" + " is no whole" to { it.addProperty("schema", 1.5) },
            "schema is missing" to { it.remove("schema") },
            "leaves the artifact" to { it.file().addProperty("path", "../secret") },
            "leaves" to { it.file().addProperty("path", "a\\b") },
            "file name " to { it.file().addProperty("path", "") },
            "sha256 of" to { it.file().addProperty("sha256", "F".repeat(64)) },
            "-1 bytes" to { it.file().addProperty("bytes", -1) },
            "two files" to { it.component().getAsJsonArray("files").add(it.file()) },
            "one name" to { it.file().addProperty("path", MANIFEST) },
            "components is empty" to { it.add("components", JsonArray()) },
            "has no file" to { it.component().add("files", JsonArray()) },
            "has no output" to { it.component().add("outputs", JsonArray()) },
            "reads unknown" to { it.component().getAsJsonArray("inputs").add("code") },
            "no component gives" to { it.output().addProperty("name", "other") },
            "no picture" to { it.output().add("shape", shape(1, 3, 16, 16)) },
            "is no picture" to { it.output().add("shape", shape(4, 16, 16)) },
            "holds 0" to { it.noise().add("shape", shape(1, 0)) },
            "too large" to { it.noise().add("shape", shape(1, 1 shl 20, 1 shl 20)) },
            "is no whole number" to { it.noise().add("shape", shape(1, 2.5)) },
            "comes from" to { it.noise().addProperty("source", "elsewhere") },
            "not float32" to { it.noise().addProperty("dtype", "int64") },
            "is no pair" to { it.noise().add("range", shape(1)) },
            "range of output is empty" to { it.output().add("range", shape(1, 1)) },
            "styles of 3" to { it.signature().getAsJsonArray("styles").add("third") },
            "layout" to { it.signature().addProperty("layout", "bgr") },
            "precision" to { it.addProperty("precision", "int4") },
            "cpu" to { it.addProperty("cpu", "riscv") },
            "name is no text" to { it.addProperty("name", 3) },
            "has no tokenizer" to {
                it.noise().addProperty("source", "prompt")
                it.noise().addProperty("dtype", "int64")
            },
        )
        for ((part, change) in cases) {
            refused<DamagedArtifact>(part) { read(tinyManifest(change)) }
        }
    }

    @Test
    fun `a manifest cut short anywhere is damaged`() {
        val text = File(bundled, MANIFEST).readText().trim()
        for (cut in text.indices) {
            refused<DamagedArtifact>(MANIFEST) { readManifest(text.take(cut).byteInputStream(), MANIFEST) }
        }
        refused<DamagedArtifact>("no JSON") { readManifest("$text {}".byteInputStream(), MANIFEST) }
    }

    @Test
    fun `a flipped bit is refused or read, and nothing else happens`() {
        val data = File(bundled, MANIFEST).readBytes()
        val random = java.util.Random(1)
        repeat(3000) {
            val flipped = data.copyOf()
            val at = random.nextInt(data.size)
            flipped[at] = (flipped[at].toInt() xor (1 shl random.nextInt(8))).toByte()
            try {
                readManifest(flipped.inputStream(), MANIFEST)
            } catch (expected: DamagedArtifact) {
                assertEquals(1, expected.message!!.lines().size)
            } catch (expected: UnsupportedArtifact) {
                assertEquals(1, expected.message!!.lines().size)
            }
        }
    }

    @Test
    fun `deep nesting and endless files end in one line`() {
        refused<DamagedArtifact>(MANIFEST) { readManifest("[".repeat(100_000).byteInputStream(), MANIFEST) }
        val endless = object : java.io.InputStream() {
            override fun read() = 32
        }
        refused<DamagedArtifact>("longer") { readManifest(endless, MANIFEST) }
    }

    @Test
    fun `a folder without a manifest is named`() {
        inFolder { refused<DamagedArtifact>("no $MANIFEST") { readArtifact(it) } }
    }

    @Test
    fun `files that changed are named`() {
        inFolder { folder ->
            File(folder, MANIFEST).writeText(tinyManifest().toString())
            val artifact = readArtifact(folder)
            val file = File(folder, "image.onnx")
            refused<DamagedArtifact>("image.onnx is missing") { checkFiles(artifact) }
            file.writeBytes(byteArrayOf(1, 2, 3))
            refused<DamagedArtifact>("has 3 bytes, $MANIFEST says 4") { checkFiles(artifact) }
            file.writeBytes(byteArrayOf(1, 2, 3, 5))
            refused<DamagedArtifact>("sha256 does not match") { checkFiles(artifact) }
            file.writeBytes(byteArrayOf(1, 2, 3, 4))
            checkFiles(artifact)
        }
    }

    @Test
    fun `components that were swapped are refused`() {
        inFolder { folder ->
            bundled.listFiles()!!.forEach { it.copyTo(File(folder, it.name)) }
            val manifest = readArtifact(folder).manifest
            val (one, two) = manifest.components.map { File(folder, it.files[0].path) }
            val kept = File(folder, "kept")
            one.renameTo(kept)
            two.renameTo(one)
            kept.renameTo(two)
            refused<DamagedArtifact>(one.name) { checkFiles(readArtifact(folder)) }
        }
    }
}
