package genedge.core

import java.io.Closeable
import java.io.File
import java.io.InputStream

/** A drawn picture and the memory that the process held after it, in bytes; null where unknown. */
class Shown(val drawn: Drawn, val memory: Long?)

/** What verify found of one artifact: a report, or why there is none. */
class Verdict(val artifact: Artifact, val report: Report?, val problem: String?) {
    val passed: Boolean get() = report != null && report.passed

    /** One line for each metric, the verdict first. */
    fun lines(): List<String> {
        val manifest = artifact.manifest
        val head = "${manifest.target} ${manifest.precision}: ${if (passed) "passed" else "failed"}"
        if (report == null) return listOf("$head, $problem")
        return listOf(head) + report.rows.map { row ->
            val limit = if (row.limit.isEmpty()) "" else " (${row.limit}) ${if (row.passed) "✓" else "✗"}"
            "${row.metric} ${row.value}$limit" + if (row.note.isEmpty()) "" else ": ${row.note}"
        }
    }
}

/**
 * Everything that an app does with artifacts: keeps them below [home], holds the one in use loaded,
 * draws and verifies. runtimes: by the manifest's target. Not for two threads at once; see [Worker].
 */
class Studio(private val home: File, private val runtimes: Map<String, Runtime>) : Closeable {
    private var pipeline: Pipeline? = null
    private var threads = 0

    /** Whole artifacts that a runtime here can load; the others are passed over. */
    fun artifacts(): List<Artifact> = installed(home).mapNotNull { folder ->
        try {
            readArtifact(folder).takeIf { it.manifest.target in runtimes }
        } catch (unreadable: GenedgeException) {
            null
        }
    }

    /** [install] and [installZip] below home. */
    fun add(open: (String) -> InputStream, stop: Stop, progress: Progress): Artifact =
        install(home, open, stop, progress)

    fun addZip(zip: InputStream, stop: Stop, progress: Progress): Artifact =
        installZip(home, zip, stop = stop, progress = progress)

    /** Draws each seed of [request]; [each] hears of a picture as soon as there is one. */
    fun draw(
        artifact: Artifact,
        threads: Int,
        request: Request,
        stop: Stop = { false },
        progress: Progress = { _, _, _ -> },
        each: (Shown) -> Unit,
    ) {
        val total = request.seeds.size.toLong()
        progress("load", 0, total)
        val loaded = opened(artifact, threads)
        for ((i, seed) in request.seeds.withIndex()) {
            if (stop()) throw Cancelled()
            val drawn = loaded.draw(loaded.prepare(request.prompt, seed, request.style))
            each(Shown(drawn, residentBytes()))
            progress("draw", i + 1L, total)
        }
    }

    /** A verdict for each artifact; one that can not be run does not keep the others from theirs. */
    fun verify(
        some: List<Artifact>,
        threads: Int,
        stop: Stop = { false },
        progress: Progress = { _, _, _ -> },
    ): List<Verdict> = some.map { artifact ->
        try {
            Verdict(artifact, verify(opened(artifact, threads), stop = stop, progress = progress), null)
        } catch (cancelled: Cancelled) {
            throw cancelled
        } catch (problem: GenedgeException) {
            Verdict(artifact, null, problem.message)
        }
    }

    private fun opened(artifact: Artifact, threads: Int): Pipeline {
        val held = pipeline
        if (held != null && held.artifact.folder == artifact.folder && this.threads == threads) return held
        close() // before the next one is loaded: two would need the memory of both
        val target = artifact.manifest.target
        val runtime = runtimes[target] ?: throw UnsupportedArtifact("this app has no runtime for $target")
        return load(artifact, runtime, threads).also {
            pipeline = it
            this.threads = threads
        }
    }

    override fun close() {
        pipeline?.close()
        pipeline = null
    }
}
