package ai.onnxruntime;

import java.nio.FloatBuffer;
import java.nio.LongBuffer;

/** A stub: see ../../README.md. */
public class OnnxTensor extends OnnxTensorLike {
    OnnxTensor() {}

    public static native OnnxTensor createTensor(OrtEnvironment env, Object data)
            throws OrtException;

    public static native OnnxTensor createTensor(OrtEnvironment env, FloatBuffer data, long[] shape)
            throws OrtException;

    public static native OnnxTensor createTensor(OrtEnvironment env, LongBuffer data, long[] shape)
            throws OrtException;

    @Override
    public native Object getValue() throws OrtException;

    public native FloatBuffer getFloatBuffer();
}
