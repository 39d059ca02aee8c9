/** Where imported documents go in a pod: one item each, with an id that follows from the path. */
import { hex } from '../../attestation/bytes.ts'
import { Rejection } from '../../attestation/errors.ts'
import { hash } from '../../attestation/session/transcript.ts'
import { asFields } from '../data/api.ts'
import { items } from '../data/items.ts'
import { collectionId } from '../session/release.ts'
import type { Session } from '../session/session.ts'
import type { Document } from './documents.ts'
import type { DocumentSink, Outcome } from './folder.ts'

const TYPE = 'document'
const SCHEMA = 1

/** The same for the same path in the same collection of the same pod, on every device; it tells the pod no path. */
export function documentId(session: Session, collection: string, path: string): string {
  const coll = collectionId(session.primitives, session.namespace, collection)
  return hex(hash(session.primitives, 'pas1 import', coll, path.normalize('NFC')).slice(0, 16))
}

export function documentSink(session: Session, collection: string): DocumentSink {
  const stored = items(session, collection)

  async function putOne(document: Document): Promise<Outcome> {
    const id = documentId(session, collection, document.path)
    const item = { type: TYPE, schema: SCHEMA, data: { ...document } }
    try {
      await stored.create({ ...item, id })
      return 'created'
    } catch (error) {
      if (!(error instanceof Rejection) || error.reason.code !== 'conflict') throw error
    }
    const known = await stored.get(id)
    const { text, title, frontMatter } = asFields(known.data)
    if (text === document.text && title === document.title && frontMatter === document.frontMatter) return 'unchanged'
    await stored.update(id, known.version, item)
    return 'updated'
  }

  return { put: documents => Promise.all(documents.map(putOne)) }
}
