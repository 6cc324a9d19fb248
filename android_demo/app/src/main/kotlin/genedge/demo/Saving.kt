package genedge.demo

import android.content.ClipData
import android.content.ContentResolver
import android.content.ContentValues
import android.content.Context
import android.content.Intent
import android.net.Uri
import android.os.Build
import android.provider.MediaStore
import genedge.core.Drawn
import genedge.core.Manifest
import genedge.core.about
import genedge.core.fileName
import genedge.core.writePng
import java.io.File
import java.io.IOException
import java.io.OutputStream

/** Whether the gallery takes pictures without a permission: from Android 10 on. */
val galleryIsOpen: Boolean get() = Build.VERSION.SDK_INT >= Build.VERSION_CODES.Q

/** A transparent PNG that says prompt, seed and that a model made it. */
fun write(out: OutputStream, drawn: Drawn, manifest: Manifest) =
    writePng(out, drawn.picture, null, about(drawn.feed, manifest))

/** Saves into Pictures/genedge; the picture is there when it is whole. Throws IOException. */
fun saveToGallery(resolver: ContentResolver, drawn: Drawn, manifest: Manifest): String {
    val name = fileName(drawn.feed)
    val values = ContentValues()
    values.put(MediaStore.MediaColumns.DISPLAY_NAME, name)
    values.put(MediaStore.MediaColumns.MIME_TYPE, "image/png")
    values.put(MediaStore.MediaColumns.RELATIVE_PATH, "Pictures/genedge")
    values.put(MediaStore.MediaColumns.IS_PENDING, 1)
    val uri = resolver.insert(MediaStore.Images.Media.EXTERNAL_CONTENT_URI, values)
        ?: throw IOException("the gallery did not take it")
    try {
        saveTo(resolver, uri, drawn, manifest)
        val done = ContentValues()
        done.put(MediaStore.MediaColumns.IS_PENDING, 0)
        resolver.update(uri, done, null, null)
    } catch (problem: IOException) {
        resolver.delete(uri, null, null)
        throw problem
    }
    return name
}

/** Saves where a person said. Throws IOException. */
fun saveTo(resolver: ContentResolver, uri: Uri, drawn: Drawn, manifest: Manifest) {
    val out = resolver.openOutputStream(uri) ?: throw IOException("it can not be opened")
    out.use { write(it, drawn, manifest) }
}

/** Asks a person for a place to save: what Android before 10 offers without a permission. */
fun askForPlace(drawn: Drawn): Intent = Intent(Intent.ACTION_CREATE_DOCUMENT)
    .addCategory(Intent.CATEGORY_OPENABLE)
    .setType("image/png")
    .putExtra(Intent.EXTRA_TITLE, fileName(drawn.feed))

/** Writes the picture into the cache and offers it to other apps. Throws IOException. */
fun share(context: Context, drawn: Drawn, manifest: Manifest): Intent {
    val folder = SharedPictures.folder(context)
    if (!folder.isDirectory && !folder.mkdirs()) throw IOException("the cache can not be written")
    val name = fileName(drawn.feed)
    File(folder, name).outputStream().use { write(it, drawn, manifest) }
    val uri = SharedPictures.uriOf(name)
    val send = Intent(Intent.ACTION_SEND)
        .setType("image/png")
        .putExtra(Intent.EXTRA_STREAM, uri)
        .addFlags(Intent.FLAG_GRANT_READ_URI_PERMISSION)
    send.clipData = ClipData.newRawUri(name, uri)
    return Intent.createChooser(send, null)
}
