/** What a pod without evidence, sealing and separate roles would be: the same handlers in one Koa process with a router. */
import Router from '@koa/router'
import Koa from 'koa'
import { discard, echo, generate } from './handlers.ts'

const router = new Router()
router.post('/v1/echo', echo)
router.post('/v1/discard', discard)
router.get('/v1/generate/:bytes', generate)

const app = new Koa()
app.use(router.routes())
const server = app.listen(0, '127.0.0.1', () => {
  const address = server.address()
  if (address !== null && typeof address === 'object') console.log(`http://127.0.0.1:${address.port}`)
})
