package genedge.demo

import android.app.Activity
import android.graphics.Bitmap
import android.view.View
import android.view.ViewGroup
import android.widget.Button
import android.widget.ImageView
import android.widget.TextView
import genedge.core.Shown

/** One cell of the grid: the picture, what it took, save and share. */
fun pictureView(
    activity: Activity,
    parent: ViewGroup,
    shown: Shown,
    save: (Shown) -> Unit,
    share: (Shown) -> Unit,
): View {
    val view = activity.layoutInflater.inflate(R.layout.picture, parent, false)
    val feed = shown.drawn.feed
    val picture = shown.drawn.picture
    val bitmap = Bitmap.createBitmap(picture.argb(), picture.width, picture.height, Bitmap.Config.ARGB_8888)
    val image = view.findViewById<ImageView>(R.id.image)
    image.setImageBitmap(bitmap)
    image.contentDescription = activity.getString(R.string.picture_of, feed.prompt, feed.style, feed.seed)
    val memory = shown.memory
    val held = if (memory == null) activity.getString(R.string.memory_unknown)
    else activity.getString(R.string.memory, memory / 1_000_000)
    view.findViewById<TextView>(R.id.caption).text =
        activity.getString(R.string.caption, feed.seed, feed.style, shown.drawn.milliseconds, held)
    view.findViewById<Button>(R.id.save).setOnClickListener { save(shown) }
    view.findViewById<Button>(R.id.share).setOnClickListener { share(shown) }
    return view
}
