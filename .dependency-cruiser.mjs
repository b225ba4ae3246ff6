// SPDX-License-Identifier: Apache-2.0
//
// Who may import whom below src/. A folder may import only what stands before it in LAYERS; folders of
// one row are siblings and may not import each other. Every rule says why. Specs obey the layers too:
// a test that crosses modules belongs in test/.

/** @type {Array<Array<[folder: string, reason: string]>>} */
const LAYERS = [
  [['common', 'everything may use common, so common knows nothing of the rest']],
  [['maps', 'map code runs in workers and offline tools, so it may need nothing but common']],
  [
    [
      'workers',
      'worker code is map code off the main thread; data plane and catalog belong to the main thread alone',
    ],
    [
      'data-plane',
      'the port must work in a process of its own, without catalog, workers or Nest modules above it',
    ],
    [
      'catalog',
      'the catalog is a cache that can be rebuilt; nothing that fills it may be needed to open it',
    ],
  ],
  [['config', 'settings are read first, before any service exists']],
  [['auth', 'who may do what is decided without knowing the features']],
  [['metrics', 'features register their figures; metrics knows none of them']],
  [['events', 'features publish events; the bus knows none of them']],
  [['jobs', 'features bring their own job handlers; jobs knows none of them']],
  [['devices', 'a device exists before any policy or group uses it']],
  [['policies', 'a policy is a rule on its own; groups refer to it']],
  [['groups', 'a group does not know what history is made of, nor what is done with it']],
  [
    [
      'history',
      'history records what was; how long it is kept and what it is used for is decided above',
    ],
  ],
  [
    [
      'lifecycle',
      'merging and freeing know history, never those who read it: leases stand between',
    ],
  ],
  [['views', 'a view reads history; restores and rewinds are other uses of it']],
  [['restores', 'a restore needs a point and a target, not a rewind']],
  [
    [
      'rewinds',
      'a rewind is checked by verifications and shown by the timeline, which stand above',
    ],
  ],
  [['verifications', 'a verification checks what stands before it']],
  [['timeline', 'the timeline shows what stands before it']],
  [['info', 'info describes the service; only health and the application stand above']],
  [['health', 'health sums up everything; only the application stands above']],
];

const ORDERED = LAYERS.flat().map(([folder]) => folder);
const ALL = [...ORDERED, 'cli', 'web'];
const TOP_FILES = String.raw`^src/(main|app\.module)(\.spec)?\.ts$`;
const KNOWN = [`^src/(${ALL.join('|')})/`, TOP_FILES];

/** One rule per folder: it may not import its siblings, nor what stands after it. */
const layerRules = LAYERS.flatMap((row, index) => {
  const before = LAYERS.slice(0, index).flat();
  return row.map(([folder, reason]) => ({
    name: `layer-${folder}`,
    comment: `src/${folder} may import only what stands before it: ${reason}.`,
    severity: 'error',
    from: { path: `^src/${folder}/` },
    to: {
      path: '^src/',
      pathNot: `^src/(${[...before.map(([name]) => name), folder].join('|')})/`,
    },
  }));
});

const unknownFolder = (name, from, to) => ({
  name,
  comment:
    'This folder has no place in the order of LAYERS (.dependency-cruiser.mjs), so nothing says what it may import.',
  severity: 'error',
  from,
  to,
});

/** @type {import('dependency-cruiser').IConfiguration} */
export default {
  forbidden: [
    ...layerRules,
    unknownFolder('unknown-folder', { path: '^src/', pathNot: KNOWN }, {}),
    unknownFolder('unknown-folder-imported', {}, { path: '^src/', pathNot: KNOWN }),
    unknownFolder('unknown-folder-alone', { path: '^src/', pathNot: KNOWN, orphan: true }, {}),
    {
      name: 'cli-speaks-rest',
      comment:
        'The CLI is a client like any other: it speaks REST, so that what it can do, everybody can.',
      severity: 'error',
      from: { path: '^src/cli/', pathNot: '^src/cli/offline/' },
      to: { path: '^src/', pathNot: '^src/(cli|common)/' },
    },
    {
      name: 'cli-offline-needs-no-service',
      comment:
        'The offline verbs work on a secondary alone, with no service and no state: common, maps and catalog.',
      severity: 'error',
      from: { path: '^src/cli/offline/' },
      to: { path: '^src/', pathNot: '^src/(cli|common|maps|catalog)/' },
    },
    {
      name: 'web-speaks-rest',
      comment: 'The web page runs in a browser and speaks REST only.',
      severity: 'error',
      from: { path: '^src/web/' },
      to: { path: '^src/', pathNot: '^src/web/' },
    },
    {
      name: 'no-circular',
      comment: 'In a circle no module can be understood, tested or loaded first.',
      severity: 'error',
      from: {},
      to: { circular: true },
    },
    {
      name: 'one-file-loads-the-addon',
      comment:
        'src/data-plane/native.ts alone loads the .node file (createRequire): it validates and types what comes out.',
      severity: 'error',
      from: { path: '^src/', pathNot: String.raw`^src/data-plane/native\.ts$` },
      to: { path: [String.raw`\.node$`, '^(node:)?module$'] },
    },
    {
      name: 'product-does-not-need-tests',
      comment: 'What is shipped must run without test/ and bench/.',
      severity: 'error',
      from: { path: '^src/', pathNot: String.raw`\.spec\.ts$` },
      to: { path: '^(test|bench)/' },
    },
    {
      name: 'product-does-not-need-dev-packages',
      comment: 'A package that the product imports belongs in "dependencies".',
      severity: 'error',
      from: { path: '^src/', pathNot: String.raw`\.spec\.ts$` },
      to: { dependencyTypes: ['npm-dev'], dependencyTypesNot: ['type-only'] },
    },
    {
      name: 'declared-packages-only',
      comment: 'A package that is there only because another one needs it can vanish any day.',
      severity: 'error',
      from: { path: '^src/' },
      to: { dependencyTypes: ['npm-no-pkg', 'npm-unknown'] },
    },
    {
      name: 'no-unresolvable',
      comment: 'What cannot be found cannot be checked.',
      severity: 'error',
      from: { path: '^src/' },
      to: { couldNotResolve: true },
    },
  ],
  options: {
    doNotFollow: { path: '(^|/)node_modules/' },
    tsPreCompilationDeps: true,
    tsConfig: { fileName: 'tsconfig.json' },
    enhancedResolveOptions: {
      exportsFields: ['exports'],
      conditionNames: ['import', 'node', 'default', 'types'],
      mainFields: ['module', 'main', 'types'],
    },
    cache: { folder: 'build/dependency-cruiser', strategy: 'content' },
  },
};
