package genedge.core

import java.io.Closeable
import java.io.File
import java.util.concurrent.locks.ReentrantLock
import kotlin.concurrent.withLock

/** One loaded graph. [run] takes the component's inputs by name and gives its outputs by name. */
interface Runner : Closeable {
    fun run(inputs: Map<String, Tensor>): Map<String, Tensor>
}

/** A runtime: loads the first file of a component. An app has one for each target. */
fun interface Runtime {
    fun load(file: File, component: Component, threads: Int): Runner
}

/** A picture, and how long the runtime took for it, in milliseconds. */
class Drawn(val feed: Feed, val picture: Picture, val milliseconds: Double)

/** A loaded artifact. One picture at a time is drawn, from whichever thread. */
class Pipeline internal constructor(
    val artifact: Artifact,
    private val tokenizer: Tokenizer?,
    private val runners: List<Runner>,
) : Closeable {
    private val lock = ReentrantLock()
    private var closed = false

    /** See the function of this name. */
    fun prepare(prompt: String, seed: Long, style: String = ""): Feed =
        prepare(artifact.manifest.signature, tokenizer, prompt, seed, style)

    /**
     * The generator's output, of the signature's shape. Throws [BadRequest] where an input is
     * missing or its dtype or shape is another, [RuntimeFailed] where the runtime fails or returns
     * numbers that are not finite, [EnvironmentFailed] where memory runs out.
     */
    fun values(inputs: Map<String, Tensor>): FloatArray = lock.withLock {
        val manifest = artifact.manifest
        val signature = manifest.signature
        if (closed) throw RuntimeFailed("${manifest.name} was closed; open it again")
        val tensors = LinkedHashMap<String, Tensor>()
        for ((name, spec) in signature.inputs) {
            tensors[name] = spec.check(name, inputs[name] ?: throw BadRequest("input $name is missing"))
        }
        for ((component, runner) in manifest.components.zip(runners)) {
            val given = component.inputs.associateWith { tensors.getValue(it) }
            tensors += guarded("${manifest.target} failed in ${component.name}") { runner.run(given) }
            val missing = component.outputs.firstOrNull { it !in tensors }
            if (missing != null) throw RuntimeFailed("${component.name} gave no $missing")
        }
        val result = tensors.getValue(signature.outputName)
        if (result !is Tensor.Floats || result.size != signature.output.size) {
            throw RuntimeFailed("${manifest.target} returned ${result.dtype} ${result.shape.toList()}")
        }
        if (result.values.any { it.isNaN() || it.isInfinite() }) {
            throw RuntimeFailed("${manifest.target} returned numbers that are not finite; verify it")
        }
        result.values
    }

    fun draw(feed: Feed): Drawn {
        val began = System.nanoTime()
        val values = values(feed.inputs)
        val milliseconds = (System.nanoTime() - began) / 1e6
        return Drawn(feed, toPicture(values, artifact.manifest.signature), milliseconds)
    }

    override fun close() = lock.withLock {
        closed = true
        runners.forEach { it.close() }
    }
}

/**
 * Loads [artifact] with [runtime]; with [check], after comparing every file's sha256. threads: 1 or
 * more. Throws [DamagedArtifact], [RuntimeFailed], [EnvironmentFailed].
 */
fun load(artifact: Artifact, runtime: Runtime, threads: Int, check: Boolean = true): Pipeline {
    if (threads < 1) throw BadRequest("$threads threads can not be used; give 1 or more")
    if (check) checkFiles(artifact)
    val manifest = artifact.manifest
    val tokenizer = manifest.tokenizer?.let { readTokenizer(artifact.file(it)) }
    val runners = ArrayList<Runner>()
    try {
        for (component in manifest.components) {
            val file = artifact.file(component.files[0])
            runners += guarded("${manifest.target} can not load $file") {
                runtime.load(file, component, threads)
            }
        }
    } catch (problem: GenedgeException) {
        runners.forEach { it.close() }
        throw problem
    }
    return Pipeline(artifact, tokenizer, runners)
}

/** Runtimes throw what they like: their last line goes into one of ours. */
private fun <T> guarded(what: String, call: () -> T): T = try {
    call()
} catch (problem: GenedgeException) {
    throw problem
} catch (problem: OutOfMemoryError) {
    throw EnvironmentFailed("$what: memory ran out; close other apps and try again", problem)
} catch (problem: LinkageError) {
    throw RuntimeFailed("$what: its library is not in this app ($problem)", problem)
} catch (problem: Exception) {
    val line = problem.message.orEmpty().trim().lines().last().take(200)
    throw RuntimeFailed("$what (${line.ifEmpty { problem.javaClass.simpleName }})", problem)
}
