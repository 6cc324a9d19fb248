package genedge.demo

import android.app.Activity
import android.app.AlertDialog
import android.content.Intent
import android.net.Uri
import android.os.Bundle
import android.os.Handler
import android.os.Looper
import android.view.View
import android.view.inputmethod.EditorInfo
import android.widget.AdapterView
import android.widget.ArrayAdapter
import android.widget.Button
import android.widget.EditText
import android.widget.GridLayout
import android.widget.ProgressBar
import android.widget.Spinner
import android.widget.TextView
import genedge.core.Artifact
import genedge.core.BadRequest
import genedge.core.Outcome
import genedge.core.Progress
import genedge.core.Shown
import genedge.core.Stop
import genedge.core.Studio
import genedge.core.Worker
import genedge.core.parseRequest
import java.io.File
import java.io.FileNotFoundException
import java.io.IOException

private const val ASSETS = "artifacts"
private const val THREADS = "threads"
private const val OPEN = 1
private const val PLACE = 2

/** One screen: it reads fields, starts work, shows what comes. All of the work is in :core. */
class MainActivity : Activity() {
    private val main = Handler(Looper.getMainLooper())
    private val worker = Worker { call -> main.post { if (!isDestroyed) call() } }
    private lateinit var studio: Studio
    private var artifacts = emptyList<Artifact>()
    private var waiting: Pair<Artifact, Shown>? = null // the picture whose place is being asked for

    private lateinit var prompt: EditText
    private lateinit var seed: EditText
    private lateinit var style: Spinner
    private lateinit var artifact: Spinner
    private lateinit var count: Spinner
    private lateinit var threads: Spinner
    private lateinit var bar: ProgressBar
    private lateinit var state: TextView
    private lateinit var pictures: GridLayout

    override fun onCreate(saved: Bundle?) {
        super.onCreate(saved)
        setContentView(R.layout.main)
        studio = Studio(File(filesDir, ASSETS), (application as Runtimes).runtimes)
        prompt = findViewById(R.id.prompt)
        seed = findViewById(R.id.seed)
        style = findViewById(R.id.style)
        artifact = findViewById(R.id.artifact)
        count = findViewById(R.id.count)
        threads = findViewById(R.id.threads)
        bar = findViewById(R.id.bar)
        state = findViewById(R.id.state)
        pictures = findViewById(R.id.pictures)
        pictures.columnCount = maxOf(2, resources.configuration.screenWidthDp / 170)
        fill(count, listOf("1", "2", "4", "8", "16"), 2)
        fillThreads()
        artifact.onItemSelectedListener = Chosen { fillStyles() }
        prompt.setOnEditorActionListener { _, action, _ ->
            if (action == EditorInfo.IME_ACTION_GO) draw()
            action == EditorInfo.IME_ACTION_GO
        }
        button(R.id.draw) { draw() }
        button(R.id.stop) { worker.cancel() }
        button(R.id.verify) { verify() }
        button(R.id.open) { askForArtifact() }
        addOwn()
    }

    override fun onDestroy() {
        worker.close { studio.close() }
        super.onDestroy()
    }

    private fun button(id: Int, click: () -> Unit) =
        findViewById<Button>(id).setOnClickListener { click() }

    private fun fill(spinner: Spinner, rows: List<String>, selected: Int) {
        val adapter = ArrayAdapter<String>(this, android.R.layout.simple_spinner_item, rows)
        adapter.setDropDownViewResource(android.R.layout.simple_spinner_dropdown_item)
        spinner.adapter = adapter
        if (rows.isNotEmpty()) spinner.setSelection(selected.coerceIn(0, rows.size - 1))
    }

    private fun fillThreads() {
        val cores = java.lang.Runtime.getRuntime().availableProcessors()
        fill(threads, (1..cores).map { "$it" }, getPreferences(MODE_PRIVATE).getInt(THREADS, 1) - 1)
        threads.onItemSelectedListener = Chosen {
            getPreferences(MODE_PRIVATE).edit().putInt(THREADS, threadCount).apply()
        }
    }

    private val threadCount: Int get() = threads.selectedItemPosition + 1

    private val chosen: Artifact? get() = artifacts.getOrNull(artifact.selectedItemPosition)

    private fun fillStyles() {
        val names = chosen?.manifest?.signature?.styles.orEmpty()
        fill(style, listOf(getString(R.string.style_any)) + names, style.selectedItemPosition)
    }

    private fun fillArtifacts(some: List<Artifact>, selected: Artifact?) {
        artifacts = some
        val rows = some.map { one ->
            val manifest = one.manifest
            getString(
                R.string.artifact_row, manifest.name, manifest.target, manifest.precision, manifest.bytes / 1e6
            )
        }
        fill(artifact, rows, some.indexOfFirst { it.folder == selected?.folder })
        fillStyles()
    }

    /** What a job does is the last argument; [done] shows what came of it. */
    private fun <T> start(done: (T) -> Unit, job: (Stop, Progress) -> T) {
        val started = worker.start(job, ::tell) { outcome ->
            busy(false)
            when (outcome) {
                is Outcome.Done -> done(outcome.value)
                is Outcome.Failed ->
                    state.text = if (outcome.cancelled) getString(R.string.stopped) else outcome.problem
            }
        }
        if (started) busy(true)
    }

    private fun tell(what: String, at: Long, total: Long) {
        bar.isIndeterminate = total == 0L
        if (total > 0) bar.progress = (1000 * at / total).toInt()
        state.text = if (total == 0L) getString(R.string.progress_open, what)
        else getString(R.string.progress, what, (100 * at / total).toInt())
    }

    private fun busy(now: Boolean) {
        for (id in listOf(R.id.draw, R.id.verify, R.id.open)) findViewById<View>(id).isEnabled = !now
        findViewById<View>(R.id.stop).isEnabled = now
        bar.isIndeterminate = false
        bar.progress = 0
    }

    /** Copies the artifacts of the APK to where a runtime can map them; the second start finds them there. */
    private fun addOwn() {
        val names = assets.list(ASSETS).orEmpty().toList()
        start({ all: List<Artifact> ->
            fillArtifacts(all, all.firstOrNull())
            state.text = getString(if (all.isEmpty()) R.string.nothing else R.string.ready)
        }) { stop, progress ->
            for (name in names) studio.add({ assets.open("$ASSETS/$name/$it") }, stop, progress)
            studio.artifacts()
        }
    }

    private fun draw() {
        val from = chosen
        if (from == null) {
            state.text = getString(R.string.nothing)
            return
        }
        val request = try {
            val named = if (style.selectedItemPosition > 0) style.selectedItem.toString() else ""
            val number = count.selectedItem.toString().toInt()
            parseRequest(prompt.text.toString(), named, seed.text.toString(), number)
        } catch (problem: BadRequest) {
            state.text = problem.message
            return
        }
        val cores = threadCount
        pictures.removeAllViews()
        val warned = LinkedHashSet<String>()
        start({ _: Unit ->
            val lines = listOf(getString(R.string.drawn, pictures.childCount)) + warned
            state.text = lines.joinToString("\n")
        }) { stop, progress ->
            studio.draw(from, cores, request, stop, progress) { shown ->
                worker.tell {
                    warned += shown.drawn.feed.warnings
                    pictures.addView(pictureView(this, pictures, shown, { save(from, it) }, { send(from, it) }))
                }
            }
        }
    }

    private fun verify() {
        val cores = threadCount
        val some = artifacts
        start({ verdicts: List<genedge.core.Verdict> ->
            val passed = verdicts.isNotEmpty() && verdicts.all { it.passed }
            state.text = getString(if (passed) R.string.verdict_passed else R.string.verdict_failed)
            AlertDialog.Builder(this)
                .setTitle(if (passed) R.string.verdict_passed else R.string.verdict_failed)
                .setMessage(verdicts.joinToString("\n\n") { it.lines().joinToString("\n") })
                .setPositiveButton(R.string.close, null)
                .show()
        }) { stop, progress -> studio.verify(some, cores, stop, progress) }
    }

    private fun askForArtifact() {
        val ask = Intent(Intent.ACTION_OPEN_DOCUMENT).addCategory(Intent.CATEGORY_OPENABLE).setType("*/*")
        ask.putExtra(Intent.EXTRA_MIME_TYPES, arrayOf("application/zip", "application/octet-stream"))
        startActivityForResult(ask, OPEN)
    }

    override fun onActivityResult(request: Int, result: Int, data: Intent?) {
        val uri = data?.data
        if (result != RESULT_OK || uri == null) return
        if (request == OPEN) open(uri)
        val kept = waiting
        if (request == PLACE && kept != null) {
            saving {
                saveTo(contentResolver, uri, kept.second.drawn, kept.first.manifest)
                getString(R.string.saved_as)
            }
        }
    }

    private fun open(uri: Uri) = start({ added: Pair<Artifact, List<Artifact>> ->
        fillArtifacts(added.second, added.first)
        state.text = getString(R.string.opened, added.first.manifest.name)
    }) { stop, progress ->
        val stream = contentResolver.openInputStream(uri) ?: throw FileNotFoundException("it can not be opened")
        stream.use { studio.addZip(it, stop, progress) } to studio.artifacts()
    }

    private fun save(from: Artifact, shown: Shown) {
        if (galleryIsOpen) {
            saving {
                getString(R.string.saved, saveToGallery(contentResolver, shown.drawn, from.manifest))
            }
        } else {
            waiting = from to shown
            startActivityForResult(askForPlace(shown.drawn), PLACE)
        }
    }

    private fun send(from: Artifact, shown: Shown) = saving {
        startActivity(share(this, shown.drawn, from.manifest))
        ""
    }

    /** A picture is a few kilobytes: written at once. The providers behind it throw what they like. */
    private fun saving(write: () -> String) {
        state.text = try {
            write()
        } catch (problem: IOException) {
            getString(R.string.not_saved, problem.message.orEmpty())
        } catch (problem: RuntimeException) {
            getString(R.string.not_saved, problem.toString())
        }
    }
}

/** Calls [chosen] when a row of a spinner is. */
private class Chosen(private val chosen: () -> Unit) : AdapterView.OnItemSelectedListener {
    override fun onItemSelected(parent: AdapterView<*>?, view: View?, position: Int, id: Long) = chosen()

    override fun onNothingSelected(parent: AdapterView<*>?) = chosen()
}
