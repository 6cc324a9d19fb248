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
        val report = verify(drawing(golden { _, level -> minOf(level, 250) }))
        assertFalse(report.rows.first { it.metric == "flat_kept" }.passed)
        assertFalse(report.passed)
    }

    @Test
    fun `black pictures are called no drawing`() {
        val black = List(64) { Tensor.Floats(FloatArray(4 * 64 * 64) { if (it < 3 * 64 * 64) 0f else 1f }, signature.output.shape) }
        val row = verify(drawing(black)).rows.single { it.metric == "suspicious" }
        assertEquals("64 of 64 pictures", row.value)
        assertTrue(row.note, "is black" in row.note && " and 63 more)" in row.note)
        assertFalse(row.passed)
    }

    private fun note(answers: List<Tensor>): String =
        verify(drawing(answers)).rows.first { it.metric == "psnr_db" }.note

    @Test
    fun `swapped channels and shifted pixels are named`() {
        val size = signature.output.shape[3]
        fun moved(from: (channel: Int, x: Int, y: Int) -> Triple<Int, Int, Int>): List<Tensor> = golden().map { one ->
            val values = (one as Tensor.Floats).values
            Tensor.Floats(FloatArray(values.size) { at ->
                val (c, x, y) = from(at / (size * size), at % size, at / size % size)
                values[(c * size + y) * size + x]
            }, one.shape)
        }
        val up = (1..size).map { it % size }
        assertTrue("swapped channels (BGR for RGB)" in note(moved { c, x, y -> Triple(if (c < 3) 2 - c else c, x, y) }))
        val shifted = note(moved { c, x, y -> Triple(c, x, up[y]) })
        assertTrue(shifted, "the picture is shifted up by one pixel" in shifted)
        val half = note(moved { c, x, y -> Triple(c, x, if (x >= size / 2) up[y] else y) })
        assertTrue(half, "the right half is shifted up by one pixel" in half)
        assertEquals("", note(golden()))
    }

    @Test
    fun `a CPU that saturates is named`() {
        fun made(cpu: String) = read(tinyManifest { it.addProperty("cpu", cpu) })
        assertEquals(null, cpuProblem(made("portable"), "x86_64") { "" })
        assertEquals(null, cpuProblem(made("arm"), "aarch64") { "" })
        assertEquals(null, cpuProblem(made("vnni"), "x86_64") { "flags : avx_vnni" })
        val why = cpuProblem(made("arm"), "x86_64") { "flags : avx2" }
        assertEquals("exported for arm; this CPU has no VNNI, 8-bit weights saturate", why)
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
