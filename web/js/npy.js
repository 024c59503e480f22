// Arrays of NumPy's format npy, versions 1 to 3.

const READERS = {
  f4: Float32Array, f8: Float64Array, i1: Int8Array, u1: Uint8Array, b1: Uint8Array, i2: Int16Array, u2: Uint16Array,
  i4: Int32Array, u4: Uint32Array, i8: BigInt64Array, u8: BigUint64Array,
};

/** Return {shape, data, dtype} of an ArrayBuffer. Integers of 64 bits become numbers. */
export function parseNpy(buffer) {
  const view = new DataView(buffer);
  const isLong = view.getUint8(6) >= 2;
  const length = isLong ? view.getUint32(8, true) : view.getUint16(8, true);
  const start = isLong ? 12 : 10;
  const header = new TextDecoder().decode(new Uint8Array(buffer, start, length));
  const dtype = /'descr': '[<|=]?(\w+)'/.exec(header)?.[1];
  const Reader = READERS[dtype];
  if (!Reader || /'fortran_order': True/.test(header)) throw new Error(`Cannot show an array of this form: ${header}`);
  const shape = (/'shape': \(([^)]*)\)/.exec(header)[1].match(/\d+/g) ?? []).map(Number);
  const bytes = buffer.slice(start + length);
  const raw = new Reader(bytes, 0, bytes.byteLength / Reader.BYTES_PER_ELEMENT);
  return { shape, dtype, data: dtype.endsWith("8") && dtype[0] !== "f" ? Float64Array.from(raw, Number) : raw };
}

/** Return row `index` of the first axis of an array, without a copy. */
export function rowOf({ shape, data }, index) {
  const size = shape.slice(1).reduce((a, b) => a * b, 1);
  return { shape: shape.slice(1), data: data.subarray(index * size, (index + 1) * size) };
}

/** Return column `index` of a matrix (rows × columns) as a plain list. NaN becomes null, which plots leave out. */
export function columnOf({ shape: [rows, columns], data }, index) {
  return Array.from({ length: rows }, (_, row) => { const value = data[row * columns + index]; return Number.isNaN(value) ? null : value; });
}
