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
  Put,
  Query,
} from '@nestjs/common';
import {
  ApiBearerAuth,
  ApiConflictResponse,
  ApiCreatedResponse,
  ApiNoContentResponse,
  ApiOkResponse,
  ApiOperation,
  ApiTags,
} from '@nestjs/swagger';
import { RequireRole } from '../auth/roles.js';
import { PageQuery, pageOf } from '../common/rest/fields.js';
import { Problem } from '../common/rest/problem.js';
import { PolicyAnswer, policyAnswer, PolicyBody } from './policy.dto.js';
import { PolicyService } from './policy.service.js';

@ApiTags('policies')
@ApiBearerAuth()
@Controller('v1/policies')
export class PoliciesController {
  constructor(@Inject(PolicyService) private readonly policies: PolicyService) {}

  @Get()
  @RequireRole('viewer')
  @ApiOperation({ summary: 'What is kept, for how long; stored, nothing is pruned yet' })
  @ApiOkResponse({ type: [PolicyAnswer] })
  async list(@Query() page: PageQuery): Promise<PolicyAnswer[]> {
    return pageOf(await this.policies.list(), page, (row) => row.id).map(policyAnswer);
  }

  @Post()
  @RequireRole('operator')
  @ApiOperation({ summary: 'Stores a policy' })
  @ApiCreatedResponse({ type: PolicyAnswer })
  @ApiConflictResponse({ type: Problem })
  async create(@Body() body: PolicyBody): Promise<PolicyAnswer> {
    const { name, ...spec } = body;
    return policyAnswer(await this.policies.create(name, spec));
  }

  @Get(':id')
  @RequireRole('viewer')
  @ApiOperation({ summary: 'One policy' })
  @ApiOkResponse({ type: PolicyAnswer })
  async show(@Param('id') id: string): Promise<PolicyAnswer> {
    return policyAnswer(await this.policies.get(id));
  }

  @Put(':id')
  @RequireRole('operator')
  @ApiOperation({ summary: 'Puts a new content in the place of the old one' })
  @ApiOkResponse({ type: PolicyAnswer })
  async replace(@Param('id') id: string, @Body() body: PolicyBody): Promise<PolicyAnswer> {
    const { name, ...spec } = body;
    return policyAnswer(await this.policies.replace(id, name, spec));
  }

  @Delete(':id')
  @HttpCode(204)
  @RequireRole('operator')
  @ApiOperation({ summary: 'Removes a policy; 409 while a group follows it' })
  @ApiNoContentResponse()
  @ApiConflictResponse({ type: Problem })
  remove(@Param('id') id: string): Promise<void> {
    return this.policies.remove(id);
  }
}
