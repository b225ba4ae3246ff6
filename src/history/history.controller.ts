// SPDX-License-Identifier: Apache-2.0
import {
  Body,
  Controller,
  Delete,
  Get,
  HttpCode,
  Inject,
  Param,
  Post,
  Query,
} from '@nestjs/common';
import {
  ApiBearerAuth,
  ApiConflictResponse,
  ApiCreatedResponse,
  ApiOkResponse,
  ApiOperation,
  ApiTags,
} from '@nestjs/swagger';
import { RequireRole } from '../auth/roles.js';
import { PageQuery, pageOf } from '../common/rest/fields.js';
import { Problem } from '../common/rest/problem.js';
import { GroupService } from '../groups/group.service.js';
import {
  GapAnswer,
  MapAnswer,
  MarkerAnswer,
  MarkerBody,
  RangeQuery,
  RecoveryPointAnswer,
  ResolveAnswer,
  ResolveQuery,
  SealAnswer,
  SegmentAnswer,
} from './history.dto.js';
import { HistoryService } from './history.service.js';
import { MarkerService } from './marker.service.js';
import { Resolver } from './resolver.js';

@ApiTags('history')
@ApiBearerAuth()
@Controller('v1/groups/:group')
export class HistoryController {
  constructor(
    @Inject(GroupService) private readonly groups: GroupService,
    @Inject(HistoryService) private readonly history: HistoryService,
    @Inject(MarkerService) private readonly markers: MarkerService,
    @Inject(Resolver) private readonly resolver: Resolver,
  ) {}

  @Post('markers')
  @RequireRole('operator')
  @ApiOperation({ summary: 'Names this moment; answers when the marker is durable' })
  @ApiCreatedResponse({ type: MarkerAnswer })
  @ApiConflictResponse({
    type: Problem,
    description: 'The label exists, or the group is in a gap.',
  })
  async addMarker(@Param('group') group: string, @Body() body: MarkerBody): Promise<MarkerAnswer> {
    return this.markers.add(await this.groups.get(group), body.label, body.keep);
  }

  @Get('markers')
  @RequireRole('viewer')
  @ApiOperation({ summary: 'Markers, oldest first; `after` is a label' })
  @ApiOkResponse({ type: [MarkerAnswer] })
  async listMarkers(
    @Param('group') group: string,
    @Query() page: PageQuery,
  ): Promise<MarkerAnswer[]> {
    const markers = await this.markers.list(await this.groups.get(group));
    return pageOf(markers, page, (marker) => marker.label);
  }

  @Delete('markers/:label')
  @RequireRole('operator')
  @ApiOperation({ summary: 'Unpins a marker: it is kept no longer for its own sake' })
  @ApiOkResponse({ type: MarkerAnswer })
  async unpin(@Param('group') group: string, @Param('label') label: string): Promise<MarkerAnswer> {
    return this.markers.unpin(await this.groups.get(group), label);
  }

  @Get('resolve')
  @RequireRole('viewer')
  @ApiOperation({ summary: 'Which point a moment means, and whether it can be had' })
  @ApiOkResponse({ type: ResolveAnswer })
  async resolve(
    @Param('group') group: string,
    @Query() query: ResolveQuery,
  ): Promise<ResolveAnswer> {
    return this.resolver.resolve(await this.groups.get(group), query.at);
  }

  @Get('recovery-points')
  @RequireRole('viewer')
  @ApiOperation({
    summary: 'Points that are kept for their own sake',
    description:
      'While nothing is pruned, every LSN outside of gaps is reachable; listed are the markers. ' +
      '`after` is an LSN.',
  })
  @ApiOkResponse({ type: [RecoveryPointAnswer] })
  async recoveryPoints(
    @Param('group') group: string,
    @Query() query: RangeQuery,
  ): Promise<RecoveryPointAnswer[]> {
    return this.history.recoveryPoints(await this.groups.get(group), query);
  }

  @Get('segments')
  @RequireRole('viewer')
  @ApiOperation({ summary: 'The log as it is, the active segment last' })
  @ApiOkResponse({ type: [SegmentAnswer] })
  async segments(
    @Param('group') group: string,
    @Query() page: PageQuery,
  ): Promise<SegmentAnswer[]> {
    return this.history.segments(await this.groups.get(group), page);
  }

  @Get('maps')
  @RequireRole('viewer')
  @ApiOperation({ summary: 'The hierarchy of delta maps as it is' })
  @ApiOkResponse({ type: [MapAnswer] })
  async maps(@Param('group') group: string, @Query() page: PageQuery): Promise<MapAnswer[]> {
    return this.history.maps(await this.groups.get(group), page);
  }

  @Get('gaps')
  @RequireRole('viewer')
  @ApiOperation({ summary: 'Stretches in which protection was interrupted' })
  @ApiOkResponse({ type: [GapAnswer] })
  async gaps(@Param('group') group: string, @Query() page: PageQuery): Promise<GapAnswer[]> {
    const gaps = await this.history.gaps(await this.groups.get(group));
    return pageOf(gaps, page, (gap) => String(gap.fromLsn));
  }

  @Post('seal')
  @HttpCode(200)
  @RequireRole('operator')
  @ApiOperation({ summary: 'Seals the active segment and answers when its map is in place' })
  @ApiOkResponse({ type: SealAnswer })
  @ApiConflictResponse({ type: Problem })
  async seal(@Param('group') group: string): Promise<SealAnswer> {
    return this.history.seal(await this.groups.get(group));
  }
}
