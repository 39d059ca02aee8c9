// The edge's relay of vendors' documents: the client's way through it to an acceptance, and what it does not do.
import 'reflect-metadata'
import { mkdtempSync, rmSync } from 'node:fs'
import { request as httpRequest } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { appraise, collateralHint, noCollateral } from '../../../attestation/appraise.ts'
import { utf8 } from '../../../attestation/bytes.ts'
import { decodeEvidence, encodeEvidence } from '../../../attestation/evidence.ts'
import { goodPlatform } from '../../../attestation/silicon/intel.ts'
import { decodeCertificateTable } from '../../../attestation/snp/certificate-table.ts'
import { decodeReport } from '../../../attestation/snp/report.ts'
import { amdChain, amdList, amdVcek, intelTcbInfo, relayPath } from '../../../attestation/vendors.ts'
import { CollateralClient, demandsOf } from '../../../client/collateral/client.ts'
import { CollateralRelay, KEPT_MS, MAX_KEPT, RELAY_PER_SOURCE } from '../../../runtime/edge/collateral.ts'
import { startEdge } from '../../../runtime/edge/server.ts'
import * as intel from '../../support/intel.ts'
import { good, NOW } from '../../support/silicon.ts'
import { type OfAmd, publishAmd, publishIntel, type Trouble, VendorStandIn } from '../../support/vendor-service.ts'

type Relayed = { service: VendorStandIn; relay: CollateralRelay; url: string; clock: { now: number } }

async function relayed(t: ExecutionContext, answerMs = 20_000): Promise<Relayed> {
  const run = mkdtempSync(join(tmpdir(), 'edge-relay-'))
  const service = await VendorStandIn.start()
  const clock = { now: 0 }
  const relay = new CollateralRelay({ now: () => clock.now, fetch: service.fetch, answerMs })
  const edge = await startEdge(run, { host: '127.0.0.1', port: 0 }, relay)
  t.teardown(async () => {
    await service[Symbol.asyncDispose]()
    await edge.drain()
    rmSync(run, { recursive: true, force: true })
  })
  return { service, relay, url: `http://127.0.0.1:${edge.port}/`, clock }
}

const list = relayPath(amdList('VCEK', 'Genoa'))
const body = utf8('a list')
const published = async (t: ExecutionContext, answerMs?: number) => {
  const all = await relayed(t, answerMs)
  all.service.publish(amdList('VCEK', 'Genoa'), { body })
  return all
}

test('evidence of both vendors is completed through a pod, also behind a router', async t => {
  const { service, url } = await relayed(t)
  const snp = await good()
  const items = new Map(decodeEvidence(snp.evidence))
  const report = items.get('snp-report') as Uint8Array
  const { vcek, ask, ark, crl } = decodeCertificateTable(items.get('certs') as Uint8Array) as OfAmd & {
    vcek: Uint8Array
  }
  const { chipId, reportedTcb } = decodeReport(report)
  publishAmd(service, { vek: vcek, ask, ark, crl }, { line: 'Genoa', chipId, tcb: reportedTcb })
  const tdx = await intel.good()
  publishIntel(service, tdx.given.collateral.tdx, tdx.quote, goodPlatform.fmspc)

  const cases = [
    { evidence: encodeEvidence([['snp-report', report]]), given: snp.given, via: url },
    { evidence: tdx.evidence, given: tdx.given, via: `${url}o/${'a'.repeat(32)}` },
  ]
  for (const { evidence, given, via } of cases) {
    const client = new CollateralClient({ via })
    const demands = demandsOf(given.policy, NOW)
    const { collateral } = await client.complete(collateralHint(evidence), noCollateral, demands)
    const verdict = await appraise(evidence, { ...given, collateral })
    t.true(verdict.accepted, verdict.accepted ? '' : verdict.detail)
  }
  t.is(service.asked.length, 7)
})

test('any page may read it, and no browser takes it for a page', async t => {
  const { service, url } = await published(t)
  const answer = await fetch(url + list)
  t.is(answer.status, 200)
  t.deepEqual(new Uint8Array(await answer.arrayBuffer()), body)
  const header = (name: string) => answer.headers.get(name)
  t.is(header('access-control-allow-origin'), '*')
  t.is(header('content-type'), 'application/octet-stream')
  t.is(header('x-content-type-options'), 'nosniff')
  t.regex(header('content-security-policy') ?? '', /default-src 'none'; sandbox/)
  t.is(header('date'), null)

  const info = intelTcbInfo(goodPlatform.fmspc, 'standard')
  service.publish(info, { body, chain: [Uint8Array.of(1, 2, 3)] })
  const vouched = await fetch(url + relayPath(info))
  t.regex(vouched.headers.get('tcb-info-issuer-chain') ?? '', /^-----BEGIN%20CERTIFICATE/)
  t.regex(vouched.headers.get('access-control-expose-headers') ?? '', /tcb-info-issuer-chain.*pck-crl/)
})

test('it asks at the addresses of the table and no others, whoever asks for what', async t => {
  const { service, url, relay } = await published(t)
  for (const path of [
    'collateral/',
    'collateral/amd/',
    'collateral/amd/vcek/v1/Genoa/crl?x',
    'collateral/amd//example.com/crl',
    'collateral/amd/../intel-root/IntelSGXRootCA.der',
    'collateral/example/crl',
    'collateral/http://example.com/',
    'collateral/intel/tdx/certification/v4/tcb?fmspc=00806f050000',
    `${list}/`,
    `${list}%20`,
  ]) {
    t.is((await raw(url, 'GET', path)).status, 404, path)
  }
  for (const method of ['POST', 'PUT', 'HEAD', 'OPTIONS', 'DELETE'])
    t.deepEqual(await raw(url, method, list), { status: 405, allow: 'GET' }, method)
  t.deepEqual(service.asked, [])
  t.is(relay.asked, 0)
})

/** As somebody sends it who does not normalise paths. */
function raw(url: string, method: string, path: string): Promise<{ status: number; allow?: string }> {
  const { hostname, port } = new URL(url)
  return new Promise((done, fail) => {
    const sent = httpRequest({ hostname, port, method, path: `/${path}` }, response => {
      response.resume()
      const { allow } = response.headers
      done({ status: response.statusCode ?? 0, ...(allow !== undefined && { allow }) })
    })
    sent.on('error', fail).end()
  })
}

test('a document is kept for an hour, and those who ask at once are answered by one request', async t => {
  const { service, url, clock, relay } = await published(t)
  const answers = await Promise.all([1, 2, 3, 4].map(() => fetch(url + list)))
  t.true(answers.every(({ status }) => status === 200))
  t.is(service.asked.length, 1)
  clock.now = KEPT_MS - 1
  await fetch(url + list)
  t.is(service.asked.length, 1)
  clock.now = KEPT_MS
  await fetch(url + list)
  t.is(service.asked.length, 2)
  t.is(relay.kept, 1)
})

test('no more is kept than fits, and the longest unasked goes first', async t => {
  const { service, url, clock, relay } = await relayed(t)
  const chip = (i: number) => amdVcek('Turin', new Uint8Array(64).fill(i), new Uint8Array(8))
  for (let i = 0; i <= MAX_KEPT; i++) {
    clock.now += 5000
    service.publish(chip(i), { body })
    t.is((await fetch(url + relayPath(chip(i)))).status, 200)
    if (i === MAX_KEPT - 1) await fetch(url + relayPath(chip(0)))
  }
  t.is(relay.kept, MAX_KEPT)
  service.asked.length = 0
  await fetch(url + relayPath(chip(0)))
  t.is(service.asked.length, 0, 'asked for a moment ago')
  await fetch(url + relayPath(chip(1)))
  t.is(service.asked.length, 1)
})

test("a vendor's trouble is told as what it is, and kept nowhere", async t => {
  const { service, url, relay, clock } = await published(t)
  const rows: readonly (readonly [Trouble, number, string | null])[] = [
    [{ status: 404 }, 404, null],
    [{ status: 400 }, 404, null],
    [{ status: 410 }, 404, null],
    [{ status: 429, retryAfter: '77' }, 429, '77'],
    [{ status: 429 }, 429, '30'],
    [{ status: 503, retryAfter: 'Fri, 31 Dec 2027 23:59:59 GMT' }, 503, '30'],
    [{ status: 500 }, 502, null],
    [{ status: 206 }, 502, null],
    ['redirect', 502, null],
    ['oversized', 502, null],
    ['endless', 502, null],
    ['closed', 503, '30'],
    ['truncated', 503, '30'],
  ]
  for (const [trouble, status, retryAfter] of rows) {
    clock.now += 60_000
    service.trouble(trouble)
    const answer = await fetch(url + list)
    t.is(answer.status, status, JSON.stringify(trouble))
    t.is(answer.headers.get('retry-after'), retryAfter)
    t.is(answer.headers.get('access-control-allow-origin'), '*')
  }
  t.is(relay.kept, 0)
  const info = intelTcbInfo(goodPlatform.fmspc, 'standard')
  service.publish(info, { body })
  t.is((await fetch(url + relayPath(info))).status, 502, 'nothing vouches for it')
  t.is((await fetch(url + list)).status, 200)
})

test('where there is no way out, or no answer in time, it is unavailable', async t => {
  const { service, url } = await published(t, 50)
  service.trouble('silent')
  const late = await fetch(url + list)
  t.is(late.status, 503)
  await service[Symbol.asyncDispose]()
  const gone = await fetch(url + list)
  t.is(gone.status, 503)
  t.is(gone.headers.get('retry-after'), '30')
})

test('a source has a few, and so many are under way at most', async t => {
  const { service, url, relay, clock } = await published(t)
  for (let i = 0; i < RELAY_PER_SOURCE.burst; i++) t.is((await fetch(url + list)).status, 200)
  const limited = await fetch(url + list)
  t.is(limited.status, 429)
  t.is(limited.headers.get('retry-after'), '2')
  t.is(relay.limited, 1)

  clock.now += 60_000
  const chip = (i: number) => amdVcek('Turin', new Uint8Array(64).fill(i), new Uint8Array(8))
  service.trouble(...Array.from({ length: 8 }, () => 'silent' as const))
  const abort = new AbortController()
  const waiting = Array.from({ length: 8 }, (_, i) => fetch(url + relayPath(chip(i)), { signal: abort.signal }))
  while (service.asked.length < 9) await new Promise(done => setTimeout(done, 5))
  t.is((await fetch(url + relayPath(chip(9)))).status, 503)
  t.is((await fetch(url + list)).status, 200, 'what is kept is answered all the same')
  abort.abort()
  await Promise.allSettled(waiting)
})

test('an edge that was not told to relays nothing', async t => {
  const run = mkdtempSync(join(tmpdir(), 'edge-relay-'))
  const edge = await startEdge(run, { host: '127.0.0.1', port: 0 })
  t.teardown(async () => {
    await edge.drain()
    rmSync(run, { recursive: true, force: true })
  })
  const url = `http://127.0.0.1:${edge.port}/`
  t.is((await fetch(url + relayPath(amdChain('VCEK', 'Genoa')))).status, 404)
  t.false((await (await fetch(`${url}metrics`)).text()).includes('pod_edge_collateral'))
})
