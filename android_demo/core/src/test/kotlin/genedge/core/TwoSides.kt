package genedge.core

import com.google.gson.Gson
import com.google.gson.JsonObject
import com.google.gson.JsonParser
import java.io.DataInputStream
import java.io.DataOutputStream
import java.io.File
import java.nio.ByteBuffer
import java.nio.ByteOrder

/*
 * What tests/test_android.py asks of this side, on the command line:
 *   feeds ARTIFACT IN OUT     a line of JSON each: prompt, seed, style → inputs, or the error's kind
 *   metrics IN OUT            raw pairs of pictures → their metrics
 *   png ARTIFACT IN DIR      what a feed says of itself → PNG files on two grounds
 *   verify ARTIFACT OUT COMMAND…  verify with a runtime in another process
 */
fun main(arguments: Array<String>) {
    val files = arguments.drop(1).map { File(it) }
    when (arguments[0]) {
        "feeds" -> feeds(files[0], files[1], files[2])
        "metrics" -> metrics(files[0], files[1])
        "png" -> png(files[0], files[1], files[2])
        "verify" -> verifyWith(files[0], files[1], arguments.drop(3))
        else -> error("unknown ${arguments[0]}")
    }
}

private fun lines(file: File): Sequence<JsonObject> =
    file.bufferedReader().lineSequence().map { JsonParser.parseString(it).asJsonObject }

private fun bits(tensor: Tensor): List<Long> = when (tensor) {
    is Tensor.Floats -> tensor.values.map { it.toRawBits().toLong() and 0xFFFFFFFFL }
    is Tensor.Longs -> tensor.values.toList()
}

private fun feeds(folder: File, input: File, output: File) {
    val artifact = readArtifact(folder)
    val tokenizer = artifact.manifest.tokenizer?.let { readTokenizer(artifact.file(it)) }
    val gson = Gson()
    output.bufferedWriter().use { out ->
        for (row in lines(input)) {
            val answer = try {
                val feed = prepare(
                    artifact.manifest.signature, tokenizer,
                    row.get("prompt").asString, parseSeed(row.get("seed").asString), row.get("style").asString,
                )
                mapOf("style" to feed.style, "warnings" to feed.warnings, "inputs" to feed.inputs.mapValues { bits(it.value) })
            } catch (refused: BadRequest) {
                mapOf("error" to refused.message)
            }
            out.write(gson.toJson(answer) + "\n")
        }
    }
}

/** side, then two pictures of side × side × 4 bytes; until the end. */
private fun metrics(input: File, output: File) {
    DataInputStream(input.inputStream().buffered()).use { data ->
        output.bufferedWriter().use { out ->
            while (data.available() > 0) {
                val side = data.readInt()
                val (one, two) = List(2) {
                    Picture(side, side, ByteArray(4 * side * side).also { data.readFully(it) })
                }
                val (kept, flat) = flatKept(one, two)
                val row = listOf(picturePsnr(one, two), pictureSsim(one, two), maxError(one, two).toDouble()) +
                    signedError(one, two).toList() + listOf(kept.toDouble(), flat.toDouble())
                out.write(row.joinToString(" ", postfix = "\n"))
            }
        }
    }
}

/** The picture of a raw file, saved with what a feed says of itself, on two grounds. */
private fun png(folder: File, input: File, target: File) {
    val manifest = readArtifact(folder).manifest
    for ((i, row) in lines(input).withIndex()) {
        val side = row.get("side").asInt
        val picture = Picture(side, side, ByteArray(4 * side * side) { (it * 7 + i).toByte() })
        val feed = Feed(emptyMap(), row.get("prompt").asString, row.get("seed").asLong, row.get("style").asString, emptyList())
        for ((name, ground) in listOf("clear" to null, "colour" to parseBackground("#336699"))) {
            File(target, "$i-$name.png").outputStream().use { writePng(it, picture, ground, about(feed, manifest)) }
        }
    }
}

private fun verifyWith(folder: File, output: File, command: List<String>) {
    val artifact = readArtifact(folder)
    val report = load(artifact, { file, component, threads -> OtherProcess(command, file, component, threads) }, 1)
        .use { verify(it) }
    val rows = report.rows.map { mapOf("metric" to it.metric, "value" to it.number, "limit" to it.limit, "passed" to it.passed, "note" to it.note) }
    output.writeText(Gson().toJson(rows))
}

/** A runtime of this machine, behind the interface that an app gives its own. */
private class OtherProcess(command: List<String>, file: File, component: Component, threads: Int) : Runner {
    private val process = ProcessBuilder(
        command + listOf(file.path, component.inputs.joinToString(",") { component.fileName(it) }, component.outputs.joinToString(",") { component.fileName(it) }, "$threads")
    ).redirectError(ProcessBuilder.Redirect.INHERIT).start()
    private val to = DataOutputStream(process.outputStream.buffered())
    private val from = DataInputStream(process.inputStream.buffered())
    private val names = component.inputs
    private val outputs = component.outputs

    /** Each tensor as: bytes of a number (8 for int64), rank, sizes, numbers, all little-endian. */
    override fun run(inputs: Map<String, Tensor>): Map<String, Tensor> {
        names.forEach { write(inputs.getValue(it)) }
        to.flush()
        return outputs.associateWith { readFloats() }
    }

    private fun write(tensor: Tensor) {
        val width = if (tensor is Tensor.Longs) 8 else 4
        val bytes = ByteBuffer.allocate(8 + 4 * tensor.shape.size + width * tensor.size).order(ByteOrder.LITTLE_ENDIAN)
        bytes.putInt(width).putInt(tensor.shape.size)
        tensor.shape.forEach { bytes.putInt(it) }
        when (tensor) {
            is Tensor.Floats -> tensor.values.forEach { bytes.putFloat(it) }
            is Tensor.Longs -> tensor.values.forEach { bytes.putLong(it) }
        }
        to.write(bytes.array())
    }

    private fun little(count: Int): ByteBuffer =
        ByteBuffer.wrap(ByteArray(count).also { from.readFully(it) }).order(ByteOrder.LITTLE_ENDIAN)

    private fun readFloats(): Tensor {
        val rank = little(8).run { check(getInt() == 4); getInt() }
        val sizes = little(4 * rank)
        val shape = IntArray(rank) { sizes.getInt() }
        val count = shape.fold(1) { product, n -> product * n }
        val numbers = little(4 * count)
        return Tensor.Floats(FloatArray(count) { numbers.getFloat() }, shape)
    }

    override fun close() {
        to.close()
        process.waitFor()
    }
}
