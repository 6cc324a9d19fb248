package genedge.core

import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertNull
import org.junit.Assert.assertTrue
import org.junit.Test
import java.io.File
import java.util.concurrent.LinkedBlockingQueue
import java.util.concurrent.TimeUnit

class StudioTest {
    private val signature = readArtifact(bundled).manifest.signature

    /** Draws the left half black and the right half white. */
    private fun halves(): Runtime = Runtime { _, component, _ ->
        loads++
        Answering {
            val size = if (component.outputs[0] == signature.outputName) signature.output.size else 1
            val values = FloatArray(size) { if (it >= 3 * 64 * 64 || it % 64 >= 32) 1f else 0f }
            mapOf(component.outputs[0] to Tensor.Floats(values, signature.output.shape))
        }
    }

    private var loads = 0

    private fun studio(home: File, runtime: Runtime = halves()) = Studio(home, mapOf("onnx" to runtime))

    private fun Studio.addBundled() = add({ File(bundled, it).inputStream() }, { false }, { _, _, _ -> })

    @Test
    fun `an artifact is added, listed, drawn with, and loaded once`() {
        inFolder { home ->
            val studio = studio(home)
            assertEquals(emptyList<Artifact>(), studio.artifacts())
            val artifact = studio.addBundled()
            assertEquals(listOf(artifact.folder), studio.artifacts().map { it.folder })
            val shown = ArrayList<Shown>()
            val told = ArrayList<String>()
            repeat(2) {
                val request = parseRequest("a fox", "flat", "7", 3)
                studio.draw(artifact, 1, request, progress = { what, at, all -> told += "$what $at/$all" }) { shown += it }
            }
            assertEquals(listOf(7L, 8L, 9L, 7L, 8L, 9L), shown.map { it.drawn.feed.seed })
            assertEquals("flat", shown[0].drawn.feed.style)
            assertEquals(listOf("load 0/3", "draw 1/3", "draw 2/3", "draw 3/3"), told.take(4))
            assertEquals(artifact.manifest.components.size, loads)
            studio.draw(artifact, 2, parseRequest("a fox", "", "7", 1)) {}
            assertEquals(2 * artifact.manifest.components.size, loads)
            studio.close()
        }
    }

    @Test
    fun `drawing stops between two pictures`() {
        inFolder { home ->
            val studio = studio(home)
            val artifact = studio.addBundled()
            var seen = 0
            refused<Cancelled>("stopped") {
                studio.draw(artifact, 1, parseRequest("a fox", "", "1", 9), stop = { seen == 2 }) { seen++ }
            }
            assertEquals(2, seen)
        }
    }

    @Test
    fun `a verdict is one line for each metric, or the reason`() {
        inFolder { home ->
            val studio = studio(home)
            val artifact = studio.addBundled()
            val verdict = studio.verify(listOf(artifact), 1).single()
            assertFalse(verdict.passed)
            assertEquals("onnx int8: failed", verdict.lines()[0])
            assertTrue(verdict.lines()[1], verdict.lines()[1].startsWith("psnr_db ") && "(≥ 32 dB) ✗" in verdict.lines()[1])
            val broken = studio(home, Runtime { _, _, _ -> throw IllegalStateException("bad graph") })
            val reason = broken.verify(listOf(artifact), 1).single()
            assertFalse(reason.passed)
            assertTrue(reason.lines().single(), "bad graph" in reason.lines().single())
            val none = Studio(home, emptyMap())
            assertEquals(emptyList<Artifact>(), none.artifacts())
            assertTrue("no runtime for onnx" in none.verify(listOf(artifact), 1).single().lines()[0])
        }
    }

    @Test
    fun `fields are read as typed`() {
        assertEquals(listOf(5L, 6L), parseRequest("a fox", "", " 5 ", 2).seeds)
        assertEquals(listOf(42L), parseRequest("a fox", "", " ", 1) { 42 }.seeds)
        assertTrue(List(20) { newSeed() }.all { it in 0 until (1L shl 31) })
        refused<BadRequest>("seed") { parseRequest("a fox", "", "x", 1) }
        refused<BadRequest>("empty") { parseRequest("  ", "", "1", 1) }
        refused<BadRequest>("no room") { parseRequest("a fox", "", "${Long.MAX_VALUE}", 2) }
        for (count in listOf(0, -1, MOST_PICTURES + 1)) {
            refused<BadRequest>("$count pictures") { parseRequest("a fox", "", "1", count) }
        }
    }

    @Test
    fun `file names are plain, and none leaves its folder`() {
        fun named(prompt: String) = fileName(Feed(emptyMap(), prompt, 3, "", emptyList()))
        assertEquals("a-red-apple-3.png", named("A red apple!"))
        assertEquals("红苹果-3.png", named("红苹果"))
        assertEquals("ein-großer-bär-3.png", named("Ein großer Bär"))
        assertEquals("𠮷".repeat(40) + "-3.png", named("𠮷".repeat(41)))
        assertEquals("picture-3.png", named("!?"))
        assertEquals("etc-passwd-3.png", named("../../etc/passwd"))
        assertTrue(named("x".repeat(500)).length < 60)
        inFolder { folder ->
            File(folder, "a.png").writeText("")
            assertEquals("a.png", fileIn(folder, "a.png")?.name)
            for (name in listOf(null, "", ".", "..", "../a.png", "b.png", "x/../a.png", "a\\b", ".hidden")) {
                assertNull(fileIn(folder, name))
            }
        }
    }

    @Test
    fun `memory is read where the system tells it`() {
        inFolder { folder ->
            val status = File(folder, "status").apply { writeText("Name:\tx\nVmRSS:\t  2048 kB\n") }
            assertEquals(2L shl 20, residentBytes(status))
            assertNull(residentBytes(File(folder, "none")))
            assertNull(residentBytes(status.apply { writeText("Name:\tx\n") }))
        }
    }

    /** The screen's thread of a test. */
    private val screen = LinkedBlockingQueue<() -> Unit>()

    private fun <T> run(worker: Worker, told: MutableList<Long> = ArrayList(), job: (Stop, Progress) -> T): Outcome<T> {
        val outcomes = ArrayList<Outcome<T>>()
        assertTrue(worker.start(job, { _, done, _ -> told += done }) { outcomes += it })
        while (outcomes.isEmpty()) screen.poll(60, TimeUnit.SECONDS)!!.invoke()
        return outcomes.single()
    }

    @Test
    fun `a worker brings progress and outcome to the screen`() {
        val worker = Worker { screen.put(it) }
        val told = ArrayList<Long>()
        val outcome = run(worker, told) { _, progress ->
            for (i in 1L..1000L) progress("count", i, 1000)
            Thread.currentThread().name
        }
        assertEquals("genedge", (outcome as Outcome.Done).value)
        assertEquals(1000L, told.last())
        assertTrue("${told.size} words of progress", told.size < 100)
        assertFalse(worker.isBusy)
        worker.close()
    }

    @Test
    fun `what a job throws is one line`() {
        val worker = Worker { screen.put(it) }
        val cases = mapOf<Throwable, String>(
            BadRequest("no such style") to "no such style",
            OutOfMemoryError() to "memory ran out",
            IllegalStateException("first\nsecond") to "IllegalStateException: first",
        )
        for ((problem, line) in cases) {
            val outcome = run<Unit>(worker) { _, _ -> throw problem } as Outcome.Failed
            assertTrue(outcome.problem, outcome.problem.startsWith(line) && '\n' !in outcome.problem)
            assertFalse(outcome.cancelled)
        }
        worker.close()
    }

    @Test
    fun `one job at a time, and it stops when asked`() {
        val worker = Worker { screen.put(it) }
        val outcome = run<Unit>(worker) { stop, _ ->
            assertFalse(worker.start({ _, _ -> }) {})
            worker.cancel()
            if (stop()) throw Cancelled()
        } as Outcome.Failed
        assertTrue(outcome.cancelled)
        val freed = LinkedBlockingQueue<String>()
        worker.close { freed.put("freed") }
        assertEquals("freed", freed.poll(60, TimeUnit.SECONDS))
        assertFalse(worker.start({ _, _ -> }) {})
    }
}
