package ai.onnxruntime;

/** A stub: see ../../README.md. */
public interface OnnxValue extends AutoCloseable {
    Object getValue() throws OrtException;

    ValueInfo getInfo();

    @Override
    void close();
}
