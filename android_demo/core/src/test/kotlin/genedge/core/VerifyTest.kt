package genedge.core

import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertTrue
import org.junit.Test
import java.io.File

class VerifyTest {
    private val artifact = readArtifact(bundled)
    private val signature = artifact.manifest.signature

    /** Premultiplied planes of a picture: what a runtime would have returned for it. */
    private fun planes(picture: Picture, change: (Int, Int) -> Int = { _, level -> level }): Tensor {
        val plane = picture.width * picture.height
        return Tensor.Floats(FloatArray(4 * plane) { at ->
            val pixel = at % plane
            val alpha = picture.rgba[4 * pixel + 3].toInt() and 255
            val level = picture.rgba[4 * pixel + at / plane].toInt() and 255
            change(at / plane, if (at / plane == 3) alpha else (level * alpha + 127) / 255) / 255f
        }, intArrayOf(1, 4, picture.height, picture.width))
    }

    /** A pipeline that draws [answers], one after the other. */
    private fun drawing(answers: List<Tensor>): Pipeline {
        var next = 0
        return load(artifact, { _, component, _ ->
            Answering {
                val name = component.outputs[0]
                mapOf(name to if (name == signature.outputName) answers[next++] else Tensor.Floats(FloatArray(1), intArrayOf(1)))
            }
        }, 1)
    }

    /** Halfway between the simulation's pictures and the float generator's: near to both. */
    private fun golden(change: (Int, Int) -> Int = { _, level -> level }): List<Tensor> =
        Golden.open(File(bundled, "golden.npz")).use { file ->
            file.pictures().map { (truth, simulated) ->
                val one = planes(truth, change) as Tensor.Floats
                val other = planes(simulated!!, change) as Tensor.Floats
                Tensor.Floats(FloatArray(one.size) { (one.values[it] + other.values[it]) / 2 }, one.shape)
            }.toList()
        }

    @Test
    fun `pictures near to float and to the simulation pass`() {
        val told = ArrayList<Long>()
        val report = verify(drawing(golden())) { _, done, _ -> told += done }
        assertTrue(report.rows.filterNot { it.passed }.joinToString { it.metric + it.value }, report.passed)
        assertEquals((1L..64L).toList(), told)
        assertEquals("≥ 32 dB", report.rows.first { it.metric == "psnr_db" }.limit)
        assertEquals("≥ 3 dB", report.rows.first { it.metric == "lead_db" }.limit)
    }

    @Test
    fun `white that became off-white fails by its name`() {
        val report = verify(drawing(golden { _, level -> minOf(level, 250) }), prompts = 8)
        assertFalse(report.rows.first { it.metric == "flat_kept" }.passed)
        assertFalse(report.passed)
    }

    @Test
    fun `black pictures are called no drawing`() {
        val black = List(64) { Tensor.Floats(FloatArray(4 * 64 * 64) { if (it < 3 * 64 * 64) 0f else 1f }, signature.output.shape) }
        val report = verify(drawing(black), prompts = 3)
        assertEquals(3, report.rows.count { it.metric == "suspicious" && "is black" in it.value })
    }

    @Test
    fun `it stops when asked`() {
        var asked = 0
        refused<Cancelled>("stopped") { verify(drawing(golden()), stop = { asked++ > 130 }) }
    }

    @Test
    fun `what runtimes throw or return becomes one line`() {
        fun answering(answer: (Map<String, Tensor>) -> Map<String, Tensor>): Pipeline =
            load(artifact, { _, _, _ -> Answering(answer) }, 1)

        fun draw(pipeline: Pipeline) { pipeline.draw(pipeline.prepare("an apple", 1)) }
        refused<RuntimeFailed>("onnx failed in text (second)") {
            draw(answering { throw IllegalStateException("first\nsecond") })
        }
        refused<RuntimeFailed>("text gave no code") { draw(answering { emptyMap() }) }
        refused<EnvironmentFailed>("memory ran out") { draw(answering { throw OutOfMemoryError() }) }
        refused<RuntimeFailed>("its library is not in this app") {
            draw(answering { throw UnsatisfiedLinkError("libonnxruntime.so") })
        }
        val code = "code" to Tensor.Floats(FloatArray(1), intArrayOf(1))
        refused<RuntimeFailed>("not finite") {
            draw(answering { mapOf(code, "picture" to Tensor.Floats(FloatArray(4 * 64 * 64) { Float.NaN }, signature.output.shape)) })
        }
        refused<RuntimeFailed>("returned float32 [1, 4, 2]") {
            draw(answering { mapOf(code, "picture" to Tensor.Floats(FloatArray(8), intArrayOf(1, 4, 2))) })
        }
    }

    @Test
    fun `inputs of another shape never reach the runtime`() {
        val pipeline = load(artifact, { _, _, _ -> Answering { throw AssertionError("it ran") } }, 1)
        val good = pipeline.prepare("an apple", 1).inputs
        val style = good.getValue("style") as Tensor.Floats
        val tokens = good.getValue("tokens") as Tensor.Longs
        val bad = listOf(
            good - "style",
            good + ("style" to Tensor.Floats(style.values, intArrayOf(7, 1))),
            good + ("style" to Tensor.Floats(style.values.copyOf(6), style.shape)),
            good + ("tokens" to Tensor.Floats(FloatArray(tokens.size), tokens.shape)),
        )
        for (inputs in bad) refused<BadRequest>("input ") { pipeline.values(inputs) }
    }

    @Test
    fun `what was loaded is closed when another component can not be`() {
        val first = Answering { emptyMap() }
        refused<RuntimeFailed>("can not load") {
            load(artifact, { file, _, _ -> if (file.name.startsWith("text")) first else throw java.io.IOException("bad graph") }, 1)
        }
        assertTrue(first.closed)
        refused<BadRequest>("threads") { load(artifact, { _, _, _ -> first }, 0) }
        val pipeline = load(artifact, { _, _, _ -> first }, 2)
        pipeline.close()
        refused<RuntimeFailed>("closed") { pipeline.draw(pipeline.prepare("an apple", 1)) }
    }
}
