package org.pytorch.executorch;

/** A stub: see README.md. */
public abstract class Tensor {
    Tensor() {}

    public static native Tensor fromBlob(byte[] data, long[] shape);

    public static native Tensor fromBlob(int[] data, long[] shape);

    public static native Tensor fromBlob(float[] data, long[] shape);

    public static native Tensor fromBlob(long[] data, long[] shape);

    public static native Tensor fromBlob(double[] data, long[] shape);

    public native long[] shape();

    public native float[] getDataAsFloatArray();

    public native long[] getDataAsLongArray();
}
