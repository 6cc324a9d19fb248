package ai.onnxruntime;

/** A stub: see ../../README.md. */
public class TensorInfo implements ValueInfo {
    TensorInfo() {}

    public native long[] getShape();
}
