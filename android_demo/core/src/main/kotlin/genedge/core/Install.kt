package genedge.core

import java.io.File
import java.io.FileNotFoundException
import java.io.FileOutputStream
import java.io.IOException
import java.io.InputStream
import java.security.MessageDigest
import java.util.zip.ZipException
import java.util.zip.ZipInputStream

private const val PARTIAL = ".partial-"
private const val MOST_FILES = 64
private const val FINDERS = "__MACOSX/" // what macOS knows of the files beside, in zips that it makes
private const val SPARE = 1L shl 20

/**
 * Copies an artifact out of where it is no file (an APK's assets) into a folder below [home], each
 * file as a stream, hashed on its way. The folder gets its name when it is whole; one that is there
 * already is used. [open] gives the artifact's file of that name, or throws FileNotFoundException;
 * golden pictures that are not there are left out.
 *
 * Throws [DamagedArtifact], [UnsupportedArtifact], [EnvironmentFailed], [Cancelled]; then nothing is left.
 */
fun install(
    home: File,
    open: (String) -> InputStream,
    stop: Stop = { false },
    progress: Progress = { _, _, _ -> },
): Artifact {
    val data = reading(MANIFEST) { open(MANIFEST).use { readAtMost(it, LONGEST_MANIFEST) } }
        ?: throw DamagedArtifact("$MANIFEST is longer than a manifest can be; export it again")
    val manifest = readManifest(data.inputStream(), MANIFEST)
    val folder = File(home, folderName(manifest))
    if (folder.isDirectory) return readArtifact(folder)
    val files = manifest.files + listOfNotNull(manifest.golden)
    val total = files.sumOf { it.bytes }
    return whole(home, folder, total) { partial ->
        var done = 0L
        for (stored in files) {
            val source = if (stored == manifest.golden) {
                openedIfThere { reading(stored.path) { open(stored.path) } } ?: continue
            } else {
                reading(stored.path) { open(stored.path) }
            }
            source.use { stream ->
                copy(stream, File(partial, stored.path), stored.bytes, stop) { block, hash ->
                    done += block
                    progress("copy", done, total)
                    if (hash != null && hash != stored.sha256) {
                        throw DamagedArtifact("${stored.path}: sha256 does not match $MANIFEST; export it again")
                    }
                }
            }
        }
        write(File(partial, MANIFEST), data)
    }
}

/**
 * The same from a zip of an artifact's folder, its files at the top or in one folder. [limit]:
 * bytes that it may have when unpacked.
 */
fun installZip(
    home: File,
    zip: InputStream,
    limit: Long = 2L shl 30,
    stop: Stop = { false },
    progress: Progress = { _, _, _ -> },
): Artifact {
    val partial = File(home, "${PARTIAL}zip")
    try {
        makeEmpty(home, partial)
        unzip(zip, partial, limit, stop, progress)
        val artifact = readArtifact(partial)
        val golden = artifact.manifest.golden
        checkFiles(artifact, golden != null && artifact.file(golden).exists(), stop)
        val folder = File(home, folderName(artifact.manifest))
        if (folder.isDirectory) return readArtifact(folder)
        rename(partial, folder)
        return readArtifact(folder)
    } finally {
        partial.deleteRecursively()
    }
}

/** Folders of whole artifacts below [home]; what a crash left half-written is removed. */
fun installed(home: File): List<File> {
    val folders = home.listFiles { file -> file.isDirectory } ?: return emptyList()
    folders.filter { it.name.startsWith(PARTIAL) }.forEach { it.deleteRecursively() }
    return folders.filter { !it.name.startsWith(".") && File(it, MANIFEST).isFile }.sortedBy { it.name }
}

/** Another manifest makes another name, so an update never mixes with what was there. */
private fun folderName(manifest: Manifest): String {
    val name = manifest.name.map { if (it in 'a'..'z' || it in 'A'..'Z' || it in '0'..'9') it else '_' }
    return name.joinToString("").take(40) +
        "-${manifest.target}-${manifest.precision}-${manifest.cpu}-${manifest.hash.take(12)}"
}

private fun whole(home: File, folder: File, total: Long, fill: (File) -> Unit): Artifact {
    val partial = File(home, PARTIAL + folder.name)
    try {
        makeEmpty(home, partial)
        if (home.usableSpace < total + SPARE) {
            throw EnvironmentFailed(
                "${folder.name} needs ${total / 1_000_000 + 1} MB, ${home.usableSpace / 1_000_000} MB " +
                    "are free; free some space and try again"
            )
        }
        fill(partial)
        rename(partial, folder)
        return readArtifact(folder)
    } finally {
        partial.deleteRecursively()
    }
}

private fun makeEmpty(home: File, partial: File) {
    partial.deleteRecursively()
    if (!partial.mkdirs()) throw EnvironmentFailed("$home can not be written; free some space and try again")
}

private fun rename(partial: File, folder: File) {
    if (!partial.renameTo(folder)) {
        throw EnvironmentFailed("$folder can not be written; free some space and try again")
    }
}

private fun openedIfThere(open: () -> InputStream): InputStream? = try {
    open()
} catch (problem: DamagedArtifact) {
    if (problem.cause is FileNotFoundException) null else throw problem
}

private fun <T> reading(name: String, read: () -> T): T = try {
    read()
} catch (problem: FileNotFoundException) {
    throw DamagedArtifact("$name is missing; copy the artifact again", problem)
} catch (problem: IOException) {
    throw DamagedArtifact("$name can not be read (${problem.message}); copy it again", problem)
}

/**
 * [source] into [target], at most [bytes] of it. [told] hears of each block, and at the end of the
 * sha256. Throws [DamagedArtifact] where the source is shorter or longer.
 */
private fun copy(
    source: InputStream,
    target: File,
    bytes: Long,
    stop: Stop,
    told: (block: Int, hash: String?) -> Unit,
) {
    val digest = MessageDigest.getInstance("SHA-256")
    val block = ByteArray(BLOCK)
    var left = bytes
    val out = opened(target)
    out.use {
        while (true) {
            if (stop()) throw Cancelled()
            val n = reading(target.name) { source.read(block) }
            if (n < 0) break
            left -= n
            if (left < 0) break
            digest.update(block, 0, n)
            try {
                out.write(block, 0, n)
            } catch (problem: IOException) {
                throw storageFailed(target.name, problem)
            }
            told(n, null)
        }
        flush(out, target.name)
    }
    if (left != 0L) {
        val what = if (left > 0) "is cut short" else "is longer than $MANIFEST says"
        throw DamagedArtifact("${target.name} $what; copy the artifact again")
    }
    told(0, hex(digest.digest()))
}

private fun opened(target: File) = try {
    FileOutputStream(target)
} catch (problem: IOException) {
    throw storageFailed(target.name, problem)
}

private fun flush(out: FileOutputStream, name: String) = try {
    out.fd.sync() // before the rename: a whole folder after a power cut
} catch (problem: IOException) {
    throw storageFailed(name, problem)
}

private fun write(target: File, data: ByteArray) = opened(target).use {
    try {
        it.write(data)
    } catch (problem: IOException) {
        throw storageFailed(target.name, problem)
    }
    flush(it, target.name)
}

private fun unzip(zip: InputStream, partial: File, limit: Long, stop: Stop, progress: Progress) {
    var top: String? = null
    var total = 0L
    var files = 0
    val stream = ZipInputStream(zip.buffered(BLOCK))
    val block = ByteArray(BLOCK)
    while (true) {
        val entry = zipped { stream.nextEntry } ?: break
        if (entry.isDirectory) continue
        if (entry.name.startsWith(FINDERS)) continue
        val folder = entry.name.substringBeforeLast('/', "")
        val name = entry.name.substringAfterLast('/')
        if (top == null) top = folder
        val odd = name.isEmpty() || name == "." || name == ".." || '\\' in name || '\u0000' in name
        if (odd || folder != top || "/" in folder || folder == ".." || ++files > MOST_FILES) {
            throw DamagedArtifact("${entry.name} does not belong to an artifact; zip its folder alone")
        }
        opened(File(partial, name)).use { out ->
            while (true) {
                if (stop()) throw Cancelled()
                val n = zipped { stream.read(block) }
                if (n < 0) break
                total += n
                if (total > limit) throw DamagedArtifact("the zip holds more than ${limit / 1_000_000} MB")
                try {
                    out.write(block, 0, n)
                } catch (problem: IOException) {
                    throw storageFailed(name, problem)
                }
                progress("unpack", total, 0)
            }
            flush(out, name)
        }
    }
    if (files == 0) throw DamagedArtifact("this is no zip of an artifact's folder; zip it again")
}

private fun <T> zipped(read: () -> T): T = try {
    read()
} catch (problem: ZipException) {
    throw DamagedArtifact("the zip is damaged (${problem.message}); copy it again", problem)
} catch (problem: IOException) {
    throw DamagedArtifact("the zip can not be read (${problem.message}); copy it again", problem)
} catch (problem: IllegalArgumentException) { // names that are no UTF-8
    throw DamagedArtifact("the zip is damaged (${problem.message}); copy it again", problem)
}
