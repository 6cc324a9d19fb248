package genedge.core

import java.io.File
import java.io.IOException
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.security.MessageDigest

/** Files are read in blocks of this many bytes: a model never has to fit the heap. */
internal const val BLOCK = 1 shl 16

internal fun hex(bytes: ByteArray): String {
    val digits = "0123456789abcdef"
    val text = StringBuilder(2 * bytes.size)
    for (b in bytes) text.append(digits[b.toInt() shr 4 and 15]).append(digits[b.toInt() and 15])
    return text.toString()
}

internal fun sha256Of(data: ByteArray): String =
    hex(MessageDigest.getInstance("SHA-256").digest(data))

/** 16 hex digits of the sha256 of a tensor's dtype, shape and bytes: what golden.npz keeps of inputs. */
fun hashOf(tensor: Tensor): String {
    val wide = tensor is Tensor.Longs
    val head = "${if (wide) "<i8" else "<f4"} ${tensor.shape.toList()} ".toByteArray(Charsets.US_ASCII)
    val bytes = ByteBuffer.allocate(head.size + tensor.size * if (wide) 8 else 4).order(ByteOrder.LITTLE_ENDIAN)
    bytes.put(head)
    when (tensor) {
        is Tensor.Floats -> tensor.values.forEach { bytes.putFloat(it) }
        is Tensor.Longs -> tensor.values.forEach { bytes.putLong(it) }
    }
    return sha256Of(bytes.array()).take(16)
}

/** Hex digest of the file's bytes, read as a stream. Throws [Cancelled] where [stop] says so. */
fun sha256Of(file: File, stop: Stop = { false }): String {
    val digest = MessageDigest.getInstance("SHA-256")
    val block = ByteArray(BLOCK)
    file.inputStream().use { stream ->
        while (true) {
            if (stop()) throw Cancelled()
            val n = stream.read(block)
            if (n < 0) return hex(digest.digest())
            digest.update(block, 0, n)
        }
    }
}

/**
 * Compares every file with its size and sha256. Throws [DamagedArtifact] naming the first that
 * differs. The golden pictures are looked at where [golden] is true: an app may delete them.
 */
fun checkFiles(artifact: Artifact, golden: Boolean = false, stop: Stop = { false }) {
    val extra = if (golden) listOfNotNull(artifact.manifest.golden) else emptyList()
    for (stored in artifact.manifest.files + extra) checkFile(artifact.file(stored), stored, stop)
}

internal fun checkFile(file: File, stored: StoredFile, stop: Stop) {
    if (!file.isFile) throw DamagedArtifact("$file is missing; copy the artifact again")
    if (file.length() != stored.bytes) {
        throw DamagedArtifact(
            "$file has ${file.length()} bytes, $MANIFEST says ${stored.bytes}; copy it again"
        )
    }
    val hash = try {
        sha256Of(file, stop)
    } catch (problem: IOException) {
        throw DamagedArtifact("$file can not be read (${problem.message}); copy it again", problem)
    }
    if (hash != stored.sha256) {
        throw DamagedArtifact(
            "$file: sha256 does not match $MANIFEST (file changed after export); copy it again"
        )
    }
}
