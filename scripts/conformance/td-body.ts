// The TD's part of a quote (version 4, or 5 with a type and a size before it), where no signature is asked about.
export type TdBody = Readonly<{ mrTd: Uint8Array; rtmrs: readonly Uint8Array[]; reportData: Uint8Array }>

export function tdBody(quote: Uint8Array): TdBody {
  const start = quote[0] === 5 ? 54 : 48
  const field = (at: number, size: number) => quote.slice(start + at, start + at + size)
  return { mrTd: field(136, 48), rtmrs: [0, 1, 2, 3].map(i => field(328 + 48 * i, 48)), reportData: field(520, 64) }
}
