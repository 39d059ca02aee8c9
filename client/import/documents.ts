/** Text files as documents: a title to find them by, front matter kept as it was written, the text untouched. */
import { utf8Text } from '../../attestation/bytes.ts'

/** What is stored of one file. */
export type Document = Readonly<{
  /** Relative to the imported folder, with forward slashes. */
  path: string
  title: string
  /** What stands between the first two lines of dashes, verbatim; null where there is none. */
  frontMatter: string | null
  text: string
  /** ISO 8601. */
  modified: string
}>

const MARKDOWN = /\.(?:md|markdown|mdown)$/i
const TEXT = /\.(?:txt|text)$/i
export const isDocument = (name: string): boolean => MARKDOWN.test(name) || TEXT.test(name)

const frontMatterBlock = /^---[ \t]*\r?\n([^]*?)\r?\n---[ \t]*(?:\r?\n|$)/
const titleLine = /^title:[ \t]*(.+?)[ \t]*$/m
const heading = /^#{1,6}[ \t]+(.+?)[ \t]*#*[ \t]*$/m
const underlined = /^(?=\S)(.+?)[ \t]*\r?\n=+[ \t]*$/m

/** Null where the bytes are not UTF-8 text. A byte order mark is not part of the text. */
export function parseDocument(path: string, bytes: Uint8Array, modified: Date): Document | null {
  const decoded = utf8Text(bytes)
  if (decoded === null || decoded.includes('\0')) return null
  const text = decoded.replace(/^\uFEFF/, '')
  const frontMatter = MARKDOWN.test(path) ? (frontMatterBlock.exec(text)?.[1] ?? null) : null
  return { path, title: titleOf(path, text, frontMatter), frontMatter, text, modified: modified.toISOString() }
}

function titleOf(path: string, text: string, frontMatter: string | null): string {
  const named = frontMatter && titleLine.exec(frontMatter)?.[1]?.replace(/^(['"])(.*)\1$/, '$2')
  if (named) return named
  const body = frontMatter === null ? text : text.replace(frontMatterBlock, '')
  const found = MARKDOWN.test(path) ? (heading.exec(body)?.[1] ?? underlined.exec(body)?.[1]) : undefined
  return found || path.slice(path.lastIndexOf('/') + 1).replace(/\.[^.]+$/, '')
}
