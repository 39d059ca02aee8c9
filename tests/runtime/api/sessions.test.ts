import test from 'ava'
import type { Keyholder } from '../../../runtime/api/keyholder.ts'
import { Sessions } from '../../../runtime/api/sessions.ts'
import { p } from '../../support/ledger-store.ts'

const sid = new Uint8Array(16).fill(5)

test('a session that ends while its secrets are on their way does not begin', async t => {
  const { promise: answer, resolve } = Promise.withResolvers<unknown>()
  const sessions = new Sessions(p, () => ({ session: () => answer }) as unknown as Keyholder)
  const found = sessions.find(sid)
  sessions.end([sid])
  resolve({ c2s: p.random(32), s2c: p.random(32), scopes: null, window: null })
  t.is(await found, null)
  t.deepEqual(sessions.all, [])
})
