// One PostgreSQL server for the tests of a file, and a database for each of them.
import test, { type ExecutionContext } from 'ava'
import pg from 'pg'
import { migrate } from '../../runtime/store/migrations.ts'
import type { Server, serverAccess } from '../../runtime/store/server.ts'
import { startOwn, type TestDatabase } from './api-client.ts'

let shared: Promise<{ server: Server; access: ReturnType<typeof serverAccess>; remove: () => void }> | null = null
test.after.always(async () => {
  const started = await shared
  await started?.server.stop()
  started?.remove()
})
let databases = 0

/** A database of the test's own on a server that the tests of a file share, and do not stop. */
export async function sharedDatabase(_t: ExecutionContext): Promise<Omit<TestDatabase, 'restart'>> {
  shared ??= (async () => {
    const { access, start, remove } = startOwn()
    return { server: await start(), access, remove }
  })()
  const { server, access } = await shared
  const name = `test${databases++}`
  const client = new pg.Client({ connectionString: access.adminUrl })
  await client.connect()
  await client.query(`create database ${name}`)
  await client.end()
  const named = (url: string) => url.replace('@/pod?', `@/${name}?`)
  await migrate(named(access.adminUrl), access.apiRole)
  return { server, url: named(access.apiUrl), adminUrl: named(access.adminUrl) }
}
