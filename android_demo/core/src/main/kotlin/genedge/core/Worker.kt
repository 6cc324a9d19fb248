package genedge.core

import java.io.Closeable
import java.util.concurrent.Executors
import java.util.concurrent.atomic.AtomicBoolean

private const val PAUSE = 50_000_000L // ns between two words of progress: a screen shows no more

/** How a job ended. */
sealed class Outcome<out T> {
    class Done<T>(val value: T) : Outcome<T>()

    /** [problem] is one line for a person; [cancelled] where they asked for it themselves. */
    class Failed(val problem: String, val cancelled: Boolean) : Outcome<Nothing>()
}

/**
 * One thread for work that would stop a screen, one job at a time. [post] brings a call to the
 * screen's thread; everything that a job tells goes through it, in order.
 */
class Worker(private val post: (() -> Unit) -> Unit) : Closeable {
    private val thread = Executors.newSingleThreadExecutor { Thread(it, "genedge") }
    private val busy = AtomicBoolean()
    @Volatile private var stopped = false

    val isBusy: Boolean get() = busy.get()

    /** Starts [job]; false where another one still runs. [done] is called once, [progress] before it. */
    fun <T> start(
        job: (stop: Stop, progress: Progress) -> T,
        progress: Progress = { _, _, _ -> },
        done: (Outcome<T>) -> Unit,
    ): Boolean {
        if (!busy.compareAndSet(false, true)) return false
        stopped = false
        var last = 0L
        thread.execute {
            val outcome = outcomeOf {
                job({ stopped }) { what, at, total ->
                    val now = System.nanoTime()
                    if (at == total || now - last > PAUSE) {
                        last = now
                        post { progress(what, at, total) }
                    }
                }
            }
            post {
                busy.set(false)
                done(outcome)
            }
        }
        return true
    }

    /** Calls [tell] on the screen's thread: for what a job shows before it ends. */
    fun tell(tell: () -> Unit) = post(tell)

    /** Asks the job to stop; it ends between two pictures or two blocks of a file. */
    fun cancel() {
        stopped = true
    }

    /** After the job that runs, [last] is called on its thread, and no other job starts. */
    fun close(last: () -> Unit) {
        busy.set(true)
        cancel()
        thread.execute(last)
        thread.shutdown()
    }

    override fun close() = close {}
}

private fun <T> outcomeOf(job: () -> T): Outcome<T> = try {
    Outcome.Done(job())
} catch (problem: Cancelled) {
    Outcome.Failed("stopped", true)
} catch (problem: GenedgeException) {
    Outcome.Failed(problem.message.orEmpty(), false)
} catch (problem: OutOfMemoryError) {
    Outcome.Failed("memory ran out; close other apps and try again", false)
} catch (problem: Throwable) { // the screen stays, whatever a runtime or a provider throws
    Outcome.Failed("${problem.javaClass.simpleName}: ${problem.message.orEmpty().lines()[0]}", false)
}
