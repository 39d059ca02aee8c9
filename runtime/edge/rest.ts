/** Everything that is not sealed: health for whoever watches the pod, numbers for Prometheus, and 404. */
import Koa from 'koa'
import { decode } from '../../attestation/wire.ts'
import { encodeAs } from '../../attestation/wire.ts'
import type { Metrics } from './metrics.ts'
import type { Upstream } from './upstream.ts'
import { keyholderVerb, type Phase, phases, statusAnswer } from './verbs.ts'

const STATUS_PATIENCE_MS = 1000
const askStatus = encodeAs(keyholderVerb, { kind: 'status' })

/** The keyholder's word for it; `booting` while there is none. */
async function phase(keyholder: Upstream): Promise<Phase> {
  const patience = Promise.withResolvers<null>()
  const timer = setTimeout(() => patience.resolve(null), STATUS_PATIENCE_MS)
  try {
    const answer = await Promise.race([keyholder.link?.call(askStatus) ?? null, patience.promise])
    return answer === null ? 'booting' : (phases[decode(statusAnswer, answer, 1)] ?? 'booting')
  } catch {
    return 'booting'
  } finally {
    clearTimeout(timer)
  }
}

export function restOf(keyholder: Upstream, metrics: Metrics): ReturnType<Koa['callback']> {
  const app = new Koa()
  app.silent = true
  app.use(async context => {
    if (context.method !== 'GET' && context.method !== 'HEAD') return
    if (context.path === '/health') {
      const word = await phase(keyholder)
      context.type = 'text/plain'
      context.body = `${word}\n`
      if (word === 'booting' || word === 'halted') context.status = 503
    } else if (context.path === '/metrics') {
      context.body = metrics.text()
      context.type = 'text/plain; version=0.0.4; charset=utf-8'
    }
  })
  return app.callback()
}
