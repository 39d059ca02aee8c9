/** The api role with the bench's handlers as further routes: production code takes them as an argument. */
import { startApi } from '../../runtime/api/api.ts'
import type { Route } from '../../runtime/api/routes.ts'
import { startRole } from '../../runtime/role.ts'
import { discard, echo, generate } from './handlers.ts'

const phases = ['locked', 'unlocked'] as const
const routes: readonly Route[] = [
  ['POST', '/v1/echo', 'nothing', phases, echo],
  ['POST', '/v1/discard', 'nothing', phases, discard],
  [
    'GET',
    '/v1/generate/:bytes',
    'nothing',
    phases,
    call => generate(Object.assign(call, { params: call.state.params })),
  ],
]

const role = startRole('api')
const api = await startApi({ run: role.run, databaseUrl: role.config.databaseUrl, routes })
role.send('r')
await api.ended
process.exit(0)
