package genedge.core

import com.google.gson.JsonElement
import com.google.gson.JsonObject
import java.io.ByteArrayOutputStream
import java.io.File
import java.io.IOException
import java.io.InputStream

const val MANIFEST = "manifest.json"
const val SCHEMA = 1L

private val targets = mapOf("onnx" to "ONNX Runtime", "executorch" to "ExecuTorch")
private val precisions = listOf("fp32", "fp16", "int8")
private val cpus = listOf("portable", "vnni", "arm")
private val sources = listOf("prompt", "noise", "meaning", "style")
private val channels = mapOf("rgba-premultiplied" to 4, "rgba" to 4, "rgb" to 3, "gray" to 1)
internal const val LONGEST_MANIFEST = 4 shl 20
private const val LARGEST_TENSOR = 1L shl 26

/** A file of an artifact: its name in the folder, its size in bytes and its sha256 in hex. */
data class StoredFile(val path: String, val bytes: Long, val sha256: String)

/**
 * One graph: names of its inputs and outputs in order; the first of its files is the one to load.
 * A runtime that goes by names asks [fileName]; one that goes by place does not.
 */
class Component(
    val name: String,
    val inputs: List<String>,
    val outputs: List<String>,
    val files: List<StoredFile>,
    private val fileNames: Map<String, String> = emptyMap(),
) {
    /** What the file itself calls this input or output. */
    fun fileName(name: String): String = fileNames[name] ?: name
}

/** What manifest.json says. [hash] is its sha256 and names the artifact. */
class Manifest(
    val hash: String,
    val name: String,
    val target: String,
    val precision: String,
    val cpu: String,
    val components: List<Component>,
    val signature: Signature,
    val tokenizer: StoredFile?,
    val golden: StoredFile?,
    val goldenCount: Int,
    val bytesOfManifest: Int,
) {
    /** All files that drawing needs; the golden pictures are apart, an app may delete them. */
    val files: List<StoredFile> get() = components.flatMap { it.files } + listOfNotNull(tokenizer)

    /** Size in bytes of everything but the golden pictures. */
    val bytes: Long get() = files.sumOf { it.bytes } + bytesOfManifest
}

/** An artifact in a folder. Throws [DamagedArtifact], [UnsupportedArtifact]. */
class Artifact(val folder: File, val manifest: Manifest) {
    fun file(stored: StoredFile): File = File(folder, stored.path)
}

/** Reads the artifact in [folder], without the files that its manifest names. */
fun readArtifact(folder: File): Artifact {
    val path = File(folder, MANIFEST)
    if (!path.isFile) {
        throw DamagedArtifact("$folder has no $MANIFEST; it is no artifact, or was not copied whole")
    }
    val manifest = try {
        path.inputStream().use { readManifest(it, path.toString()) }
    } catch (problem: IOException) {
        throw DamagedArtifact("$path can not be read (${problem.message}); copy it again", problem)
    }
    return Artifact(folder, manifest)
}

/**
 * Reads manifest.json, schema version 1; [where] names it in messages.
 *
 * Throws [DamagedArtifact] where it is malformed or contradicts itself, [UnsupportedArtifact]
 * where it is newer, for a runtime that is not here, a pipeline, or starts from a picture.
 */
fun readManifest(stream: InputStream, where: String): Manifest {
    val data = readAtMost(stream, LONGEST_MANIFEST)
        ?: throw DamagedArtifact("$where is longer than a manifest can be; export it again")
    try {
        return manifestOf(readObject(data.toString(Charsets.UTF_8).reader()), data, where)
    } catch (problem: Malformed) {
        throw DamagedArtifact("$where is damaged (${problem.message}); export it again", problem)
    }
}

/** Up to [limit] bytes, or null where there are more. */
internal fun readAtMost(stream: InputStream, limit: Int): ByteArray? {
    val out = ByteArrayOutputStream()
    val block = ByteArray(BLOCK)
    while (true) {
        val n = stream.read(block)
        if (n < 0) return out.toByteArray()
        out.write(block, 0, n)
        if (out.size() > limit) return null
    }
}

private fun manifestOf(row: JsonObject, data: ByteArray, where: String): Manifest {
    val schema = row.whole("schema")
    if (schema > SCHEMA) {
        throw UnsupportedArtifact(
            "$where: schema version $schema is newer than this app reads ($SCHEMA); update the app"
        )
    }
    if (schema < 1) throw Malformed("schema $schema")
    val steps = row.texts("steps")
    if (steps != listOf("feed_forward")) {
        throw UnsupportedArtifact(
            "$where is a pipeline (steps: ${steps.joinToString()}); this library draws with " +
                "generators of one pass (feed_forward): export such a one"
        )
    }
    val target = row.text("target")
    if (target !in targets) {
        throw UnsupportedArtifact(
            "$where: target $target does not run here; export it with --target executorch or onnx"
        )
    }
    val components = row.list("components").map { component(it) }
    if (components.isEmpty()) throw Malformed("components is empty")
    val signature = signatureOf(row.row("signature"), where)
    checkWiring(components, signature)
    val tokenizer = row.member("tokenizer")?.let { fileOf(it, "tokenizer") }
    if (signature.inputs.values.any { it.source == "prompt" } &&
        (tokenizer == null || signature.length == null)
    ) {
        throw Malformed("it takes a prompt and has no tokenizer")
    }
    val golden = row.member("golden")
    val files = components.flatMap { it.files } +
        listOfNotNull(tokenizer, golden?.let { fileOf(it, "golden") })
    if (files.map { it.path }.toSet().size != files.size || files.any { it.path == MANIFEST }) {
        throw Malformed("two files have one name")
    }
    return Manifest(
        hash = sha256Of(data),
        name = row.text("name"),
        target = target,
        precision = oneOf(row, "precision", precisions),
        cpu = oneOf(row, "cpu", cpus),
        components = components,
        signature = signature,
        tokenizer = tokenizer,
        golden = golden?.let { fileOf(it, "golden") },
        goldenCount = golden?.let { small((it as JsonObject).whole("count"), "count") } ?: 0,
        bytesOfManifest = data.size,
    )
}

private fun oneOf(row: JsonObject, key: String, known: List<String>): String {
    val value = row.text(key)
    return if (value in known) value else throw Malformed("$key $value is unknown")
}

private fun fileOf(element: JsonElement, what: String): StoredFile {
    val row = element as? JsonObject ?: throw Malformed("$what is no object")
    val path = row.text("path")
    if (path.isEmpty() || path == "." || path == ".." || path.any { it in "/\\\u0000" }) {
        throw Malformed("file name $path leaves the artifact")
    }
    val hash = row.text("sha256")
    if (hash.length != 64 || hash.any { it !in "0123456789abcdef" }) {
        throw Malformed("sha256 of $path is none")
    }
    val bytes = row.whole("bytes")
    if (bytes < 0) throw Malformed("$path has $bytes bytes")
    return StoredFile(path, bytes, hash)
}

private fun component(element: JsonElement): Component {
    val row = element as? JsonObject ?: throw Malformed("a component is no object")
    val name = row.text("name")
    val files = row.list("files").map { fileOf(it, name) }
    if (files.isEmpty()) throw Malformed("component $name has no file")
    val outputs = row.texts("outputs")
    if (outputs.isEmpty()) throw Malformed("component $name has no output")
    val given = row.member("file_names")?.let { row.row("file_names") } ?: JsonObject()
    val fileNames = given.keySet().associateWith { given.text(it) }
    return Component(name, row.texts("inputs"), outputs, files, fileNames)
}

/** Each component reads what the signature or a component before it gives. */
private fun checkWiring(components: List<Component>, signature: Signature) {
    val known = signature.inputs.keys.toMutableSet()
    for (component in components) {
        val missing = component.inputs.firstOrNull { it !in known }
        if (missing != null) throw Malformed("component ${component.name} reads unknown $missing")
        known += component.outputs
    }
    if (components.none { signature.outputName in it.outputs }) {
        throw Malformed("no component gives ${signature.outputName}")
    }
}

internal fun small(value: Long, what: String): Int =
    if (value in 0..Int.MAX_VALUE) value.toInt() else throw Malformed("$what is $value")

private fun spec(row: JsonObject, name: String): TensorSpec {
    val dtype = oneOf(row, "dtype", listOf("float32", "int64"))
    val shape = row.list("shape").map { small(it.asWhole("shape of $name"), "shape of $name") }
    var size = 1L
    for (n in shape) {
        if (n < 1) throw Malformed("shape of $name holds $n")
        size *= n
        if (size > LARGEST_TENSOR) throw Malformed("$name is too large")
    }
    val range = row.list("range").map { it.asNumber("range of $name") }
    if (range.size != 2) throw Malformed("range of $name is no pair")
    return TensorSpec(
        dtype, shape.toIntArray(), range[0], range[1], row.member("source")?.asText("source") ?: ""
    )
}

private fun signatureOf(row: JsonObject, where: String): Signature {
    val inputs = LinkedHashMap<String, TensorSpec>()
    val given = row.row("inputs")
    for (name in given.keySet()) {
        val spec = spec(given.row(name), name)
        if (spec.source == "image") {
            throw UnsupportedArtifact("$where starts from a picture; this library draws from words and noise alone")
        }
        if (spec.source !in sources) throw Malformed("input $name comes from ${spec.source}")
        val dtype = if (spec.source == "prompt") "int64" else "float32"
        if (spec.dtype != dtype) throw Malformed("input $name is ${spec.dtype}, not $dtype")
        inputs[name] = spec
    }
    val layout = oneOf(row, "layout", channels.keys.toList())
    val output = spec(row.row("output"), "output")
    val shape = output.shape
    if (shape.size != 4 || shape[0] != 1 || shape[1] != channels[layout] || output.dtype != "float32") {
        throw Malformed("the output ${shape.toList()} is no picture of layout $layout")
    }
    if (output.high <= output.low) throw Malformed("range of output is empty")
    val styles = row.member("styles")?.let { row.texts("styles") } ?: emptyList()
    for ((name, spec) in inputs) {
        val width = spec.shape.lastOrNull() ?: 0
        if (spec.source == "style" && (styles.isEmpty() || width < styles.size)) {
            throw Malformed("input $name holds $width styles of ${styles.size}")
        }
        if (spec.source == "meaning" && width < 1) throw Malformed("input $name holds no meaning")
    }
    val tokenizer = row.member("tokenizer") as? JsonObject
    return Signature(
        inputs = inputs,
        outputName = row.row("output").text("name"),
        output = output,
        layout = layout,
        styles = styles,
        length = tokenizer?.let { small(it.whole("length"), "length") },
        pad = tokenizer?.let { small(it.whole("pad"), "pad") },
    )
}
