package genedge.demo

import android.content.ContentProvider
import android.content.ContentValues
import android.content.Context
import android.database.Cursor
import android.database.MatrixCursor
import android.net.Uri
import android.os.ParcelFileDescriptor
import android.provider.OpenableColumns
import genedge.core.fileIn
import java.io.File
import java.io.FileNotFoundException

/** Lends pictures of the cache to the app that a person shares them with: read only, one by one. */
class SharedPictures : ContentProvider() {
    companion object {
        fun folder(context: Context) = File(context.cacheDir, "shared")

        fun uriOf(name: String): Uri =
            Uri.Builder().scheme("content").authority("genedge.demo.shared").appendPath(name).build()
    }

    private fun file(uri: Uri): File? {
        val context = context ?: return null
        return fileIn(folder(context), uri.lastPathSegment)
    }

    override fun onCreate(): Boolean = true

    override fun getType(uri: Uri): String = "image/png"

    override fun openFile(uri: Uri, mode: String): ParcelFileDescriptor {
        val file = file(uri) ?: throw FileNotFoundException("no picture of this name")
        if (mode != "r") throw FileNotFoundException("pictures are read only")
        return ParcelFileDescriptor.open(file, ParcelFileDescriptor.MODE_READ_ONLY)
    }

    override fun query(
        uri: Uri,
        projection: Array<String>?,
        selection: String?,
        selectionArgs: Array<String>?,
        sortOrder: String?,
    ): Cursor? {
        val file = file(uri) ?: return null
        val columns = projection ?: arrayOf(OpenableColumns.DISPLAY_NAME, OpenableColumns.SIZE)
        val cursor = MatrixCursor(columns, 1)
        cursor.addRow(
            columns.map { column ->
                when (column) {
                    OpenableColumns.DISPLAY_NAME -> file.name
                    OpenableColumns.SIZE -> file.length()
                    else -> null
                }
            }
        )
        return cursor
    }

    override fun insert(uri: Uri, values: ContentValues?): Uri? = null

    override fun update(uri: Uri, values: ContentValues?, where: String?, arguments: Array<String>?): Int = 0

    override fun delete(uri: Uri, where: String?, arguments: Array<String>?): Int = 0
}
