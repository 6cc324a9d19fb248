package genedge.core

import java.io.IOException

/** What went wrong, in one line that names what, where and the next step. */
sealed class GenedgeException(message: String, cause: Throwable? = null) :
    Exception(message.map { if (it < ' ') ' ' else it }.joinToString(""), cause)

/** A prompt, seed, style, background or name that can not be used. */
class BadRequest(message: String) : GenedgeException(message)

/** A file of an artifact is missing, cut short, changed, or not what manifest.json says. */
class DamagedArtifact(message: String, cause: Throwable? = null) : GenedgeException(message, cause)

/** A whole artifact that this library can not draw with: newer, for another target, a pipeline, from pictures. */
class UnsupportedArtifact(message: String) : GenedgeException(message)

/** Storage is full, memory ran out, or a file can not be written. */
class EnvironmentFailed(message: String, cause: Throwable? = null) : GenedgeException(message, cause)

/** A runtime refused a file or an input, or returned something that is no picture. */
class RuntimeFailed(message: String, cause: Throwable? = null) : GenedgeException(message, cause)

/** The user stopped it; nothing half-written is left. */
class Cancelled : GenedgeException("stopped")

/** Whether the user asked to stop; called between pictures and between blocks of a file. */
typealias Stop = () -> Boolean

/** What is done, how much of it, and how much in all. */
typealias Progress = (what: String, done: Long, total: Long) -> Unit

internal fun storageFailed(what: String, problem: IOException): EnvironmentFailed {
    val text = problem.message.orEmpty()
    val full = "ENOSPC" in text || "No space left" in text || "EDQUOT" in text
    val why = if (full) "storage is full; free some space" else "it can not be written ($text)"
    return EnvironmentFailed("$what: $why and try again", problem)
}
