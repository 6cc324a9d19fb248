package genedge.core

import com.google.gson.JsonArray
import com.google.gson.JsonObject
import com.google.gson.JsonParser
import java.io.File
import java.nio.file.Files

/** What the tests share: files of the repository, and a folder that goes away. */
val root = File(System.getProperty("genedge.root") ?: "../..")
val bundled = File(root, "runtime/artifacts/emoji-onnx-int8")

fun vectors(name: String): List<JsonObject> = rows(
    JsonParser.parseString(File(root, "tests/vectors/$name.json").readText()).asJsonArray
)

fun rows(array: JsonArray): List<JsonObject> = array.map { it.asJsonObject }

fun vectorsOf(name: String, part: String): List<JsonObject> = rows(
    JsonParser.parseString(File(root, "tests/vectors/$name.json").readText())
        .asJsonObject.getAsJsonArray(part)
)

inline fun <T> inFolder(use: (File) -> T): T {
    val folder = Files.createTempDirectory("genedge").toFile()
    try {
        return use(folder)
    } finally {
        folder.deleteRecursively()
    }
}

inline fun <reified E : Throwable> refused(part: String, call: () -> Unit) {
    try {
        call()
    } catch (problem: Throwable) {
        if (problem !is E) throw problem
        val message = problem.message.orEmpty()
        if (part !in message) throw AssertionError("expected '$part' in '$message'")
        if ('\n' in message) throw AssertionError("more than one line: $message")
        return
    }
    throw AssertionError("nothing was thrown; expected ${E::class.simpleName} with '$part'")
}

/** A small artifact of one component: tokens and noise in, an 16 × 16 picture out. */
fun tinyManifest(change: (JsonObject) -> Unit = {}): JsonObject {
    val text = """
        {"schema": 1, "name": "tiny", "target": "onnx", "precision": "int8", "cpu": "arm",
         "steps": ["feed_forward"], "generator": {"name": "tiny", "sha256": "${"0".repeat(64)}"},
         "signature": {
           "inputs": {
             "noise": {"dtype": "float32", "shape": [1, 4], "range": [-6, 6], "source": "noise"},
             "meaning": {"dtype": "float32", "shape": [1, 5], "range": [0, 1], "source": "meaning"},
             "style": {"dtype": "float32", "shape": [1, 2], "range": [0, 1], "source": "style"}},
           "output": {"name": "picture", "dtype": "float32", "shape": [1, 4, 16, 16], "range": [0, 1]},
           "layout": "rgba-premultiplied", "styles": ["flat", "soft"], "tokenizer": null},
         "components": [{"name": "image", "inputs": ["noise", "style"], "outputs": ["picture"],
           "files": [{"path": "image.onnx", "bytes": 4, "sha256": "${sha256Of(byteArrayOf(1, 2, 3, 4))}"}]}],
         "noise": {}, "float_layers": [], "tools": {}, "measured": {}}
    """
    return JsonParser.parseString(text).asJsonObject.also(change)
}

fun read(row: JsonObject): Manifest = readManifest(row.toString().byteInputStream(), MANIFEST)

/** Runs whatever [answer] says. */
class Answering(val answer: (Map<String, Tensor>) -> Map<String, Tensor>) : Runner {
    var closed = false

    override fun run(inputs: Map<String, Tensor>) = answer(inputs)

    override fun close() {
        closed = true
    }
}
