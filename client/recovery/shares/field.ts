/**
 * Arithmetic on secret bytes: GF(256) with the polynomial of AES, as SLIP-39 uses it. No tables and no branches that
 * depend on a secret: of a product one factor is public always, because the points of a share are, and only the other
 * is secret.
 */

const double = (a: number): number => ((a << 1) ^ (0x1b & -(a >> 7))) & 0xff

/** `factor` is public, `secret` is not. */
export function multiply(secret: number, factor: number): number {
  let product = 0
  let power = secret
  for (let bit = 0; bit < 8; bit++) {
    if ((factor >> bit) & 1) product ^= power
    power = double(power)
  }
  return product
}

/** Of a public value other than 0: a^254. */
function inverse(a: number): number {
  let result = a
  for (let i = 0; i < 6; i++) result = multiply(multiply(result, result), a)
  return multiply(result, result)
}

export type Point = Readonly<{ x: number; y: Uint8Array }>

/** The value at `x` of the polynomials, one a byte, that go through the points (Lagrange); the points' x are distinct. */
export function interpolate(points: readonly Point[], x: number): Uint8Array {
  const length = (points[0] as Point).y.length
  const value = new Uint8Array(length)
  for (const { x: own, y } of points) {
    const others = points.filter(other => other.x !== own)
    const weight = others.reduce((w, { x: each }) => multiply(multiply(w, x ^ each), inverse(own ^ each)), 1)
    for (let i = 0; i < length; i++) value[i] = (value[i] as number) ^ multiply(y[i] as number, weight)
  }
  return value
}
