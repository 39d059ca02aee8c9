/** Backup and restore over the wire: streams of records (`attestation/backup.ts`). */
import { Readable } from 'node:stream'
import { z } from 'zod'
import { answerChanged, decimal, query } from './calls.ts'
import type { Call } from './routes.ts'

const copyQuery = z.strictObject({ since: decimal(Number.MAX_SAFE_INTEGER).default(0) })

/** Everything, or what changed from leaf `since` on, as of one moment. */
export async function copy(call: Call): Promise<void> {
  const { backup } = await call.state.data()
  const { since } = query(call, copyQuery)
  call.status = 200
  call.type = 'application/octet-stream'
  call.body = Readable.from(backup.copy(call.state.session, since), { objectMode: false, highWaterMark: 1 })
}

export async function restore(call: Call): Promise<void> {
  const { backup } = await call.state.data()
  const { head, items } = await backup.restore(call.state.session, call.req)
  answerChanged(call, 201, head, { items })
}
