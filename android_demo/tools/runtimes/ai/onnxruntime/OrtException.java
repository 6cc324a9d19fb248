package ai.onnxruntime;

/** A stub: see ../../README.md. */
public class OrtException extends Exception {}
