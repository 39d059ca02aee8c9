import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import fc from 'fast-check'
import { utf8 } from '../../attestation/bytes.ts'
import { decodePem } from '../../attestation/certificates/pem.ts'
import { parseCertificate } from '../../attestation/certificates/x509.ts'
import { oid } from '../../attestation/certificates/der.ts'
import { Malformed } from '../../attestation/errors.ts'
import {
  type Address,
  amdChain,
  amdList,
  amdVcek,
  intelPckList,
  intelQeIdentity,
  intelRootList,
  intelTcbInfo,
  origins,
  relayedAddress,
  relayPath,
  serviceAt,
  type Source,
  vendorUrl,
} from '../../attestation/vendors.ts'
import { vectorsDir, vectorTest } from '../support/vectors.ts'

const fmspc = Uint8Array.of(0x90, 0xc0, 0x6f, 0, 0, 0)
const chip = new Uint8Array(64).fill(0xab)
const family19 = Uint8Array.of(10, 0, 0, 0, 0, 0, 23, 219)
const family1a = Uint8Array.of(1, 2, 3, 4, 0, 0, 0, 255)
const all: Readonly<Record<string, Address>> = {
  'https://kdsintf.amd.com/vcek/v1/Milan/cert_chain': amdChain('VCEK', 'Milan'),
  'https://kdsintf.amd.com/vlek/v1/Turin/cert_chain': amdChain('VLEK', 'Turin'),
  'https://kdsintf.amd.com/vlek/v1/Genoa/crl': amdList('VLEK', 'Genoa'),
  [`https://kdsintf.amd.com/vcek/v1/Genoa/${'ab'.repeat(64)}?blSPL=10&teeSPL=00&snpSPL=23&ucodeSPL=219`]: amdVcek(
    'Genoa',
    chip,
    family19,
  ),
  'https://kdsintf.amd.com/vcek/v1/Turin/abababababababab?fmcSPL=01&blSPL=02&teeSPL=03&snpSPL=04&ucodeSPL=255': amdVcek(
    'Turin',
    chip,
    family1a,
  ),
  'https://api.trustedservices.intel.com/tdx/certification/v4/tcb?fmspc=90c06f000000&update=standard': intelTcbInfo(
    fmspc,
    'standard',
  ),
  'https://api.trustedservices.intel.com/tdx/certification/v4/tcb?fmspc=90c06f000000&update=early': intelTcbInfo(
    fmspc,
    'early',
  ),
  'https://api.trustedservices.intel.com/tdx/certification/v4/qe/identity?tcbEvaluationDataNumber=18':
    intelQeIdentity(18),
  'https://api.trustedservices.intel.com/sgx/certification/v4/pckcrl?ca=platform&encoding=der':
    intelPckList('platform'),
  'https://api.trustedservices.intel.com/sgx/certification/v4/pckcrl?ca=processor&encoding=der':
    intelPckList('processor'),
  'https://certificates.trustedservices.intel.com/IntelSGXRootCA.der': intelRootList,
}

test('every address that is built is in the table, and has a way through a relay and back', t => {
  for (const [url, address] of Object.entries(all)) {
    t.is(vendorUrl(address), url)
    t.truthy(serviceAt(address), url)
    t.deepEqual(relayedAddress(relayPath(address)), address)
  }
  t.throws(() => amdVcek('Genoa', chip, family1a), { instanceOf: Malformed })
})

test('nothing else is: other hosts, paths, queries, and anything added to one that is', t => {
  const none = [
    'collateral/amd/',
    'collateral/amd/vcek/v1/Milan/',
    'collateral/amd/vcek/v1/Venice/crl',
    'collateral/amd/vcek/v1/Milan/crl?x=1',
    'collateral/amd/vcek/v1/Milan/../../../crl',
    'collateral/amd//example.com/vcek/v1/Milan/crl',
    'collateral/amd/vcek/v1/Milan/crl#',
    'collateral/amd/vcek/v1/Milan/crl\n',
    'collateral/AMD/vcek/v1/Milan/crl',
    'collateral/intel/vcek/v1/Milan/crl',
    'collateral/constructor/vcek/v1/Milan/crl',
    'collateral/intel/sgx/certification/v4/pckcrl?ca=platform',
    'collateral/intel/sgx/certification/v4/pckcrl?ca=platform&encoding=der&ca=processor',
    'collateral/intel/tdx/certification/v4/tcb?fmspc=90C06F000000&update=standard',
    'collateral/intel/tdx/certification/v4/tcb?fmspc=90c06f000000&tcbEvaluationDataNumber=0',
    'collateral/intel/tdx/certification/v4/qe/identity',
    'collateral/intel-root/IntelSGXRootCAxder',
    'Collateral/intel-root/IntelSGXRootCA.der',
    '/collateral/intel-root/IntelSGXRootCA.der',
    `collateral/amd/vcek/v1/Genoa/${'ab'.repeat(8)}?blSPL=10&teeSPL=00&snpSPL=23&ucodeSPL=219`,
    `collateral/amd/vcek/v1/Genoa/${'ab'.repeat(64)}?blSPL=010&teeSPL=00&snpSPL=23&ucodeSPL=219`,
    `collateral/amd/vcek/v1/Genoa/${'ab'.repeat(64)}?teeSPL=00&blSPL=10&snpSPL=23&ucodeSPL=219`,
  ]
  for (const path of none) t.is(relayedAddress(path), null, path)
  const built = Object.values(all).map(relayPath)
  const changed = fc
    .tuple(fc.constantFrom(...built), fc.nat({ max: 300 }), fc.string({ minLength: 1, maxLength: 3 }))
    .map(([path, at, extra]) => path.slice(0, at) + extra + path.slice(at))
  // A digit more may be another chip or version, never another host, path or query.
  const shape = /^collateral\/[a-z-]+\/[A-Za-z0-9/._]+(?:[?][A-Za-z0-9&=]+)?$/
  fc.assert(fc.property(changed, path => relayedAddress(path) === null || shape.test(path)))
  fc.assert(
    fc.property(fc.constantFrom<Source>('amd', 'intel', 'intel-root'), fc.webPath(), (source, path) => {
      return serviceAt({ source, path }) === null
    }),
  )
})

vectorTest('real certificates name the same addresses of lists', t => {
  const roots = join(vectorsDir('vectors') as string, 'roots')
  const listPoint = (der: Uint8Array) => {
    const value = parseCertificate(der, 'certificate').extensions.get(oid('2.5.29.31'))?.value ?? new Uint8Array()
    return String.fromCharCode(...value)
  }
  for (const line of ['Milan', 'Genoa', 'Turin'] as const) {
    for (const key of ['VCEK', 'VLEK'] as const) {
      const file = join(roots, 'amd', `${line}_${key}_ask_ark.pem`.toLowerCase())
      const [intermediate] = decodePem(utf8(readFileSync(file, 'utf8').replaceAll('\r', '').trimEnd()), 2, file)
      t.true(listPoint(intermediate as Uint8Array).includes(vendorUrl(amdList(key, line))), file)
    }
  }
  const intel = new Uint8Array(readFileSync(join(roots, 'intel', 'sgx_root_ca.der')))
  t.true(listPoint(intel).includes(vendorUrl(intelRootList)))
  t.is(Object.keys(origins).length, 3)
})
