package org.pytorch.executorch;

/** A stub: see README.md. */
public class EValue {
    private EValue() {}

    public static native EValue from(Tensor tensor);

    public static native EValue from(boolean value);

    public static native EValue from(long value);

    public static native EValue from(double value);

    public static native EValue from(String value);

    public native Tensor toTensor();
}
