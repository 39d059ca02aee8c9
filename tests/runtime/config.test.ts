import test from 'ava'
import { Rejection } from '../../attestation/errors.ts'
import { parseConfig, podConfig, roleConfig } from '../../runtime/config.ts'

const good = {
  runDir: '/run/pod',
  dataDir: '/var/lib/pod',
  listen: { host: '127.0.0.1', port: 0 },
  launchConfig: '/var/lib/pod/launch',
  attester: { kind: 'simulated', socket: '/run/processor.sock' },
  manifestVersion: 1,
}
const parse = (value: unknown) => parseConfig(podConfig, JSON.stringify(value), 'pod.json')

test('a whole configuration is taken as it stands', t => {
  t.deepEqual(parse(good), good as ReturnType<typeof parse>)
  t.is(parse(good).collateralRelay, undefined)
  t.true(parse({ ...good, collateralRelay: true }).collateralRelay)
  t.is(parse({ ...good, databaseUrl: 'postgresql://localhost/x' }).databaseUrl, 'postgresql://localhost/x')
})

const refused: Record<string, [unknown, RegExp]> = {
  'an unknown key': [{ ...good, debug: true, trace: 1 }, /^format: pod\.json: unknown key "debug", "trace"$/],
  'an unknown key further in': [{ ...good, listen: { ...good.listen, tls: true } }, /unknown key "tls" in listen$/],
  'a missing key': [{ ...good, launchConfig: undefined }, /launchConfig: /],
  'a relative path': [{ ...good, dataDir: 'data' }, /dataDir: expected an absolute path/],
  'a port out of range': [{ ...good, listen: { host: 'x', port: 65536 } }, /listen\.port: /],
  'a database that is not PostgreSQL': [{ ...good, databaseUrl: 'mysql://x' }, /databaseUrl: expected postgres/],
  'another attester': [{ ...good, attester: { kind: 'none' } }, /attester\.kind: /],
  'a relay that is neither on nor off': [{ ...good, collateralRelay: 'yes' }, /collateralRelay: /],
  'a manifest version of 0': [{ ...good, manifestVersion: 0 }, /manifestVersion: /],
  'no object': [[], /pod\.json: /],
}
for (const [name, [value, message]] of Object.entries(refused)) {
  test(`refused by name: ${name}`, t => {
    t.is(t.throws(() => parse(value), { instanceOf: Rejection, message })?.reason.code, 'configuration')
  })
}

test('refused: what is not JSON, without repeating it', t => {
  const error = t.throws(() => parseConfig(podConfig, '{"databaseUrl": "postgres://user:pass', 'pod.json'))
  t.is(error?.message, 'format: pod.json: not JSON')
})

test('a role reads its own part and nothing else', t => {
  for (const schema of Object.values(roleConfig)) {
    t.throws(() => parseConfig(schema, JSON.stringify(good), 'role.json'), { instanceOf: Rejection })
  }
})
