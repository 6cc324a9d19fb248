// One component in ONNX Runtime for Node: tensors in on stdin, tensors out on stdout, until stdin
// ends. Arguments: file, names of inputs and of outputs (commas between), threads.
// A tensor: bytes of a number (8 int64, 4 float32), rank, sizes (all int32), numbers; little-endian.
'use strict';
const fs = require('fs');
const ort = require('onnxruntime-node');

const [file, inputs, outputs, threads] = process.argv.slice(2);

function take(count) {
  const bytes = Buffer.alloc(count);
  for (let at = 0; at < count; ) {
    const n = fs.readSync(0, bytes, at, count - at, null);
    if (n === 0) return null;
    at += n;
  }
  return bytes;
}

function readTensor() {
  const head = take(8);
  if (head === null) return null;
  const width = head.readInt32LE(0);
  const sizes = take(4 * head.readInt32LE(4));
  const shape = [];
  for (let i = 0; i < sizes.length; i += 4) shape.push(sizes.readInt32LE(i));
  const count = shape.reduce((product, n) => product * n, 1);
  const raw = take(width * count);
  const buffer = raw.buffer.slice(raw.byteOffset, raw.byteOffset + raw.length);
  return width === 8
    ? new ort.Tensor('int64', new BigInt64Array(buffer), shape)
    : new ort.Tensor('float32', new Float32Array(buffer), shape);
}

function writeTensor(tensor) {
  const head = Buffer.alloc(8 + 4 * tensor.dims.length);
  head.writeInt32LE(4, 0);
  head.writeInt32LE(tensor.dims.length, 4);
  tensor.dims.forEach((n, i) => head.writeInt32LE(n, 8 + 4 * i));
  const { buffer, byteOffset, byteLength } = tensor.data;
  fs.writeSync(1, head);
  const data = Buffer.from(buffer, byteOffset, byteLength);
  for (let at = 0; at < data.length; ) at += fs.writeSync(1, data, at);
}

async function main() {
  const session = await ort.InferenceSession.create(file, {
    intraOpNumThreads: Number(threads),
    interOpNumThreads: 1,
    executionProviders: ['cpu'],
  });
  for (;;) {
    const feed = {};
    for (const name of inputs.split(',')) {
      const tensor = readTensor();
      if (tensor === null) return;
      feed[name] = tensor;
    }
    const result = await session.run(feed);
    for (const name of outputs.split(',')) writeTensor(result[name]);
  }
}

main();
