package ai.onnxruntime;

/** A stub: see ../../README.md. */
public interface ValueInfo {}
