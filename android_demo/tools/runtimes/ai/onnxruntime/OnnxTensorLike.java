package ai.onnxruntime;

/** A stub: see ../../README.md. */
public abstract class OnnxTensorLike implements OnnxValue {
    OnnxTensorLike() {}

    @Override
    public native TensorInfo getInfo();

    @Override
    public native void close();
}
